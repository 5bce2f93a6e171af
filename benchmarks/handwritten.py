"""The loop that a good engineer writes in 40 lines, as fast as it gets: the peer that ours must not lose to."""

from __future__ import annotations

import torch


def train(model, documents, steps, on_step, *, rate, schedule, micro_batch, packed):
    """`steps` holds the document ids of each step; `schedule` maps (optimizer, steps) to a scheduler."""
    causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    body, head = getattr(causal_lm, causal_lm.base_model_prefix), causal_lm.get_output_embeddings()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=rate, weight_decay=0.0, fused=True)
    scheduler = schedule(optimizer, len(steps))
    model.train()
    for ids in steps:
        samples = sorted((documents[id_] for id_ in ids), key=lambda sample: -len(sample[0]))
        labelled = sum(int(trained[1:].sum()) for _, trained in samples)
        total = 0.0
        for start in range(0, len(samples), micro_batch):
            inputs, labels, positions = [], [], []
            for sample in samples[start : start + micro_batch]:
                tokens, trained = torch.from_numpy(sample[0]).long(), torch.from_numpy(sample[1])
                inputs.append(tokens[:-1])
                labels.append(tokens[1:].where(trained[1:], -100))
                positions.append(torch.arange(len(tokens) - 1))
            if packed:  # transformers keeps documents apart where position_ids start again
                batch = {"input_ids": torch.cat(inputs)[None], "position_ids": torch.cat(positions)[None]}
                labels = torch.cat(labels)[None]
            else:  # padding on the right is never seen by a causal model
                batch = {"input_ids": torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)}
                labels = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
            hidden = body(**batch, use_cache=False).last_hidden_state
            logits = head(hidden[labels != -100])
            loss = torch.nn.functional.cross_entropy(logits, labels[labels != -100], reduction="sum") / labelled
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        on_step(total)
