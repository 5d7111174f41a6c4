"""Runs the second half of resumed fits in a process of its own, for test_resume_matrix."""

import sys

import torch

import test_resume_matrix

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(12345)  # what a fresh process happens to start with must not matter
    folder = sys.argv[1]
    for name, row in test_resume_matrix.ROWS.items():
        result = test_resume_matrix.start(row, ckpt_path=f"{folder}/{name}/half.ckpt")
        torch.save(result, f"{folder}/{name}.pt")
