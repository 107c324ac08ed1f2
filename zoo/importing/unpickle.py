"""Run as a program of its own: reads a PyTorch pickle where it can do no harm, and writes safetensors.

    python -I unpickle.py TARGET SOURCE...

It leaves every network before it reads a byte, and PyTorch's restricted reader builds tensors and nothing else.
Exit codes: 3 no process without network can be made here, 4 the file holds more than tensors or is broken.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

NO_ISOLATION, REFUSED = 3, 4
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def _leave_network() -> None:
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        print(f"this system makes no process without network: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(NO_ISOLATION)


def main() -> None:
    """Converts the sources into one file."""
    _leave_network()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import torch
    from safetensors.torch import save_file

    target, *sources = sys.argv[1:]
    tensors: dict[str, torch.Tensor] = {}
    try:
        for source in sources:
            found = torch.load(source, map_location="cpu", weights_only=True)
            for key in ("state_dict", "model_state_dict"):
                found = found.get(key, found) if isinstance(found, dict) else {}
            tensors |= {str(name): value.clone() for name, value in found.items() if isinstance(value, torch.Tensor)}
    except Exception as error:  # noqa: BLE001  # whatever a hostile file makes the reader raise is a refusal
        print(f"{type(error).__name__}: {str(error).splitlines()[0][:300]}", file=sys.stderr)
        sys.exit(REFUSED)
    if not tensors:
        print("it holds no tensors", file=sys.stderr)
        sys.exit(REFUSED)
    save_file({name: value.contiguous() for name, value in tensors.items()}, target, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
