"""What transformers makes of an exported folder. Another Python runs this text: it imports nothing of this package."""

import sys
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

TEXT = "Are you sure? I don't think that's right.\n  2 + 2 = 4"


def read(folder: str, asked: str, said: str) -> None:
    """Writes to the file `said` the logits of the tokens in the file `asked`, and how the folder's tokenizer reads."""
    own: Any = {"trust_remote_code": False, "local_files_only": True}
    dtype = {"dtype" if int(transformers.__version__.split(".")[0]) > 4 else "torch_dtype": "auto"}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", **dtype, **own)
    with torch.no_grad():
        logits = model.eval()(input_ids=load_file(asked)["tokens"], use_cache=False).logits.float()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **own)
    text = TEXT
    if tokenizer.chat_template:
        text += tokenizer.apply_chat_template([{"role": "user", "content": TEXT}], tokenize=False)
    ids = [*tokenizer(TEXT)["input_ids"], *tokenizer(text, add_special_tokens=False)["input_ids"]]
    save_file({"logits": logits.contiguous(), "ids": torch.tensor(ids, dtype=torch.int64)}, said)


if __name__ == "__main__":
    try:
        read(*sys.argv[1:])
    except Exception as error:  # whatever it is, it is why this can't be read
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
