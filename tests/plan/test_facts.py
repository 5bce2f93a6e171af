"""What a run has logged is read by other versions."""

from __future__ import annotations

import json
from dataclasses import asdict

from shapes import QWEN3_4B

from colab_magics.plan import Device, ModelShape, from_log

T4 = Device("cuda", "Tesla T4", 2**34, 2**33, 2**34, (7, 5))


def test_a_shape_and_a_device_come_back_from_the_log_as_they_were():
    for one in (QWEN3_4B, T4):
        assert from_log(type(one), json.loads(json.dumps(asdict(one)))) == one


def test_what_a_later_version_has_added_is_skipped_and_what_an_older_one_lacked_is_as_usual():
    told = asdict(QWEN3_4B) | {"of_tomorrow": 1}
    del told["window"]
    assert from_log(ModelShape, told) == QWEN3_4B
