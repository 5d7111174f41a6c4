"""What is "the seed document", and what became of its twelve strategies?

This package grew from a short document, *Learning Rate Strategies in StructureNet*. It describes twelve strategies and
a combination of them. Docstrings call it the seed document, or the seed, and refer to its strategies by number. Here
each is quoted as far as needed ("..." marks what is left out), followed by the factor that covers it and by what this
package does where the document contradicts itself. A test (``tests/laws/test_seed.py``) compares the factors with each
number below, and ``examples/twelve_strategies.py`` trains with each strategy and prints both side by side.

### 1. Cascading/exponential decay

```python
for i, layer in enumerate(self.scaffold):
    decay = 0.1 ** (i / len(self.scaffold))
    ...  # 'lr': 0.001 * decay
```

> **Purpose**: Preserve learned features in early layers while allowing later layers to adapt.

``DepthDecay``. The formula contradicts the purpose: it makes the earliest layer the fastest. The default,
``DepthDecay()``, mirrors the formula, so that the earliest layer is the slowest, which did better in our pilots;
``DepthDecay(slowest="output")`` is the formula as written.

### 2. Dual learning rates (scaffold vs patches)

```python
{'params': model.scaffold.parameters(), 'lr': 0.0001},  # Slow for scaffold
{'params': model.patches.parameters(), 'lr': 0.0005}    # Faster for patches
```

``RoleLR()``: scaffold 0.1 and patches 0.5, at a base lr of 1e-3.

### 3. Age-based learning rates

```python
age = current_epoch - layer.created_at_epoch
decay = 0.1 ** age  # 10x decay per growth phase
layer_lr = base_lr * decay
```

``AgeDecay``. The comment counts growth phases, the code epochs. The default, ``AgeDecay()``, counts growth events;
``AgeDecay(unit="epoch")`` is the code.

### 4. Component-specific learning rates

```python
{'params': scaffold_params, 'lr': 0.0001},  # Scaffold layers - exponentially decreasing
{'params': patch_params, 'lr': 0.0005},     # Patches - medium learning rate
{'params': neck_params, 'lr': 0.001},       # Neck blocks - higher learning rate (newly added)
{'params': new_layer_params, 'lr': 0.001}   # New sparse layers - full learning rate
```

``RoleLR()``. The comment on the scaffold says "exponentially decreasing", the number is constant. Add
``DepthDecay(where="scaffold")`` for a decrease.

### 5. Pretrained + new layers

```python
{'params': pretrained_layers, 'lr': 1e-5},  # Nearly frozen
{'params': new_layers, 'lr': 1e-3},         # 100x faster
{'params': adapter_layers, 'lr': 5e-4}      # Medium speed for layers connecting old and new
```

``RoleLR()``, with roles by ``Components({"body.*": "pretrained", ...})``.

### 6. Growth-aware scheduling

```python
if 'scaffold' in param_group['name']:
    param_group['lr'] *= 0.5  # Halve scaffold LR after growth
elif 'new' in param_group['name']:
    param_group['lr'] = 0.001  # Fresh LR for new components
```

``GrowthResponder(roles={"scaffold": 0.5, "new": 1.0})``. As written, an lr only ever falls: after ten growth events the
scaffold learns at a thousandth. ``recovery=`` lets each dip fade, and ``floor=`` bounds their product.

### 7. Warm-up of new components

```python
if epoch < warmup_epochs:
    return epoch / warmup_epochs  # Linear warm-up
return 1.0
```

``Warmup()``. As written, the factor of the first epoch is 0, so a new component would learn nothing in it. This package
counts from one, ``(age + 1) / length``, and counts the age of each component, where ``epoch`` is that of the run.

### 8. Layer-wise adaptive rate scaling (LARS)

```python
layer_lr = base_lr * (weight_norm / (grad_norm + 1e-8))
```

``LARSScaler``. The LARS paper has a coefficient of 0.001 in this formula; without it steps are a thousand times as
long. The default is the paper's; ``LARSScaler(trust_coefficient=1.0)`` is as written.

### 9. Progressive freezing

```python
if current_phase == 'warmup':
    return 0.001  # All layers active
elif current_phase == 'refinement':
    if layer_idx < 2:
        return 0.00001  # Nearly frozen early layers
    else:
        return 0.0001   # Slow for later layers
elif current_phase == 'final':
    if layer_idx < len(layers) - 1:
        return 0  # Freeze all but last
    return 0.0001  # Only tune final layer
```

``ProgressiveFreeze()``. The document does not say when a phase starts; the defaults are the epochs 0, 10 and 30. Its 2
is the same in a network of 3 layers and of 100; ``split`` may also be negative (from the output) or a fraction of the
depth. A factor of 0 is a true freeze, without a gradient and without the backward pass.

### 10. Differential decay after events

```python
if param_group['name'] == 'grown_layer':
    param_group['lr'] *= 0.9   # Slight decay
elif param_group['name'] == 'adjacent_layer':
    param_group['lr'] *= 0.7   # More decay for adjacent
else:
    param_group['lr'] *= 0.5   # Heavy decay for distant layers
```

``GrowthResponder()``. Rates only ever fall, as with strategy 6, and have the same way out. The document does not say
what is adjacent; here it is what differs by one in depth at most when the event happens.

### 11. Sparsity-aware learning rates

```python
density = layer.get_density()
if density < 0.02:  # Very sparse
    layer_lr = base_lr * 2.0  # Need higher LR
elif density > 0.1:  # Dense patches
    layer_lr = base_lr * 0.5  # Lower LR for stability
```

``DensityScaler()``. Between the two densities the document sets no lr; here the factor is 1.

### 12. The "sedimentary" strategy

```python
'geological_layers': 0.00001,   # Oldest, barely change
'sediment_layers': 0.0001,      # Middle age, slow drift
'active_layers': 0.001,         # Newest, rapid change
'patches': 0.0005               # Targeted fixes
```

``SedimentaryDecay()``. Absolute rates, which no LR scheduler could move; here they are factors, which give these rates
at a base lr of 1e-3. The document does not say from which age on; the defaults are 20 and 100 epochs.

### Recommended combined strategy

```python
age_factor = 0.1 ** (model.current_epoch // 20)  # Age-based decay
depth_factor = 0.1 ** (i / len(model.scaffold))  # Depth-based decay
...  # scaffold layer i: base_lr * age_factor * depth_factor
...  # patches: base_lr * 0.5
warmup_factor = min(1.0, model.epochs_since_added / 5)  # Warm-up
...  # new components: base_lr * warmup_factor
```

``recommended("seed")``. The document takes the epoch of the run for the age, so a new scaffold layer would be as old as
the first one; here each component has its own age. Depth and warm-up are as for the strategies 1 (as written) and 7.

> This comprehensive strategy ensures stable learning by preserving foundational knowledge in older layers while
> allowing new components to adapt and integrate quickly.

Our own measurements did not confirm this sentence: the combined strategy slowed recovery after growth. The docstring of
``recommended`` says what held up.
"""
