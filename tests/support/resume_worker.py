"""Runs the second half of resumed fits in a process of its own, for test_resume."""

import sys

import torch

import test_resume

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(12345)  # what a fresh process happens to start with must not matter
    folder = sys.argv[1]
    for name, row in test_resume.ROWS.items():
        torch.save(test_resume.second_half(row, f"{folder}/{name}/half.ckpt"), f"{folder}/{name}.pt")
