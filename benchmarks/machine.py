"""What a measurement was made on."""

from __future__ import annotations

import platform

import torch

from equifuse.report.machine import processor


def describe() -> dict[str, str | int]:
    """Processor, threads and versions, for the record beside a figure."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
