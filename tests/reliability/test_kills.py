"""Whatever kills a worker, and whenever: the run goes on, and ends in the weights of the run that nobody disturbed."""

from __future__ import annotations

from kills import kills_in_a_row, random_kills, random_stops

SEED = 20261121


def test_fifty_kills_at_random_moments_all_go_on_to_the_same_weights(course_of):
    course = course_of()
    figures = random_kills(course, 50, SEED)
    print(f"{figures}; {course.share_saving:.0%} of the training time is spent saving")
    assert not figures.bad
    # a test of kills that never met a commit would prove nothing
    assert any(trial.torn for trial in figures.trials)
    assert sum(trial.phase == "training" for trial in figures.trials) > 25
    # a checkpoint every 2 steps, one of them perhaps being written while the next 2 are done
    assert max(trial.lost for trial in figures.trials) <= 4


RICH = {
    "method": "full",
    "packing": True,
    "eval_data": "demo",
    "max_eval_samples": 4,
    "eval_every": 3,
    "early_stopping": 9,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.1,
}


def test_so_do_runs_that_train_the_whole_model_packed_and_are_evaluated(course_of):
    figures = random_kills(course_of(**RICH), 10, SEED)
    print(figures)
    assert not figures.bad


def test_ten_kills_in_a_row_of_one_run_and_the_weights_are_the_same(course_of):
    figures = kills_in_a_row(course_of(max_steps=40), 10, SEED)
    print(figures)
    assert not figures.bad
    assert [trial.deaths for trial in figures.trials] == [10]


def test_twenty_stops_at_random_moments_leave_the_newest_checkpoint_whole(course_of):
    figures = random_stops(course_of(), 20, SEED)
    print(figures)
    assert not figures.bad
