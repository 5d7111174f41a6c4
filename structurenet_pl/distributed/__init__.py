"""What do several processes tell each other?

Under DDP and FSDP2 every process must ask for the same growth. A growth is carried out at the end of an epoch or of a
validation; one by ``GrowEvery`` may also happen in the middle of an epoch, because the clock is the same everywhere.
New tensors get the values of rank 0, a growth method that returns a decision is called with that of rank 0, and DDP is
wrapped anew; for FSDP2 see below. Ranks compare settings of callbacks at the start of the fit, what was done at each
growth, and learning rates at the start and end of each epoch. Where they differ, every rank raises an error that names
the difference, and no rank has grown. If a process is gone, the others name the moment at which they missed it.

In a training step messages are sent only by growth, by a freeze or a thaw, by ``LARSScaler`` under FSDP2 (a reduction
for each optimizer; with ``mode="grad"`` for each weight decay), and by ``StrataMonitor(norms=True)`` if it logs the
step.

**FSDP2**: ``ModelParallelStrategy``, and ``fully_shard`` in ``configure_model``. Lightning may call that method more
than once::

    def configure_model(self):
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            mesh = self.device_mesh["data_parallel"]
            for block in self.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(self, mesh=mesh)

A new part becomes a unit like its nearest sibling: with the same mesh, policies, and units inside it. Parameters
without such a sibling join the unit around them. Where there is neither, growth raises. ``widen`` gathers the layers
that it changes, and so does a growth method that replaces a tensor by one made from it; plain tensors count as equal on
all ranks there. A growth method sees sharded parameters: to copy from one, take ``tensor.full_tensor()``, on all ranks
(the others of a rank that raises before wait until the process group times out), and make a layer by its class and not
by ``deepcopy``, which FSDP2 refuses. Optimizer state follows tensor by tensor. Norms, densities and parameter counts
are those of whole tensors. Freezing is a true freeze, also of a part of a unit. A checkpoint, in a folder or
(``save_distributed_checkpoint=False``) in a file, is resumed on any number of processes, bit for bit on the same
number. A file is also resumed under DDP or on one process, and theirs under FSDP2.

Growth in ``setup`` comes before ``configure_model``: as for the initial weights, seed all ranks alike. A
tensor-parallel plan may have growth outside of it, where its inputs are whole. A growth that replaces a tensor of the
plan raises, and so does the first backward pass with a new part between its layers. Averages of weights
(``EMAWeightAveraging``) are refused by FSDP2 itself. FSDP1 and DeepSpeed have factors only.

All this is tested with two processes on CPU (gloo, torch 2.13). CUDA, NCCL, hybrid sharding (a mesh of two dimensions)
and other versions of torch are **not** tested under FSDP2.

For 1,000 ranks, 70 billion parameters in fp32 with Adam, and 82 blocks of 3.4 GB, a rank holds 0.28 GB of weights and
0.56 GB of state. ``examples/benchmarks/many_ranks.py`` simulates one rank: growth by a block takes 16 messages, which
broadcast the block, and 3.4 GB of memory, because a new block is whole on each rank for a moment. An MLP that becomes a
seventh wider takes 29 messages, which gather its two matrices and their state one by one, 9 GB, and broadcast 3.2 GB;
memory is that of the new matrices and of one old one, 5 GB. At 20 GB/s these are 0.2 s and 0.6 s. So a growth method
should change a few layers: one that widened all blocks at once would hold 82 times as much. Ranks compare digests of
their reports, some 300 kB in all. No step gathers the whole model, and none is quadratic in ranks.
"""
