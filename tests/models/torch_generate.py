"""Run where torch is: loads a folder with transformers and continues prompts greedily; prints JSON.

    PYTHON tests/models/torch_generate.py FOLDER PROMPTS TOKENS [ADAPTER]

PROMPTS is JSON, a list of lists of ids. What comes out: `tokens`, as many new ones for each prompt; `classes` of the
model and, where the folder has a tokenizer, of that; `loading`, names of tensors that were missing or not expected.
ADAPTER is a folder that peft puts on the model first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers


def main(folder: str, prompts: str, tokens: str, adapter: str = "") -> None:
    """The command."""
    torch.set_num_threads(1)
    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    found, classes = [], [type(model).__name__]
    if adapter:
        import peft

        model = peft.PeftModel.from_pretrained(model, adapter)
    for prompt in json.loads(prompts):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=int(tokens),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        found.append(out[0, len(prompt) :].tolist())
    if (Path(folder) / "tokenizer.json").exists():
        classes.append(type(transformers.AutoTokenizer.from_pretrained(folder)).__name__)
    loading = sorted(told["missing_keys"]) + sorted(told["unexpected_keys"])
    print(json.dumps({"tokens": found, "classes": classes, "loading": loading}))


if __name__ == "__main__":
    main(*sys.argv[1:])
