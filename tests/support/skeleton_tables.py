"""For each of the skeleton networks its components, in order of depth; ``layer.0-3`` stands for four of them."""

import re

from torch import nn

from skeleton_nets import (
    bert,
    convnext,
    deepar,
    dense,
    efficientnet,
    experts,
    gin,
    gpt2,
    layer,
    litgpt,
    llama,
    mobilenet_v2,
    nanogpt,
    nequip,
    part,
    pina,
    resnet18,
    swin,
    t5,
    unet,
    vit,
)

NETWORKS = {
    "ResNet-18 (timm, torchvision)": (resnet18, "conv1 bn1 layer1.0-1 layer2.0-1 layer3.0-1 layer4.0-1 fc"),
    "ViT (timm)": (lambda: vit(12), "self patch_embed blocks.0-11 norm head"),
    "ConvNeXt (timm)": (
        lambda: convnext([2, 2, 6, 2]),
        "stem.0-1 stages.0.blocks.0-1 stages.1.downsample.0-1 stages.1.blocks.0-1 stages.2.downsample.0-1 "
        "stages.2.blocks.0-5 stages.3.downsample.0-1 stages.3.blocks.0-1 head",
    ),
    "EfficientNet-B0 (timm)": (
        lambda: efficientnet([2, 2, 3, 3, 4, 1]),
        "conv_stem bn1 blocks.0 blocks.1.0-1 blocks.2.0-1 blocks.3.0-2 blocks.4.0-2 blocks.5.0-3 blocks.6 "
        "conv_head bn2 classifier",
    ),
    "MobileNetV2 (torchvision)": (mobilenet_v2, "features.0-4 classifier.1"),
    "Swin (timm)": (
        lambda: swin([2, 2, 6, 2]),
        "patch_embed layers.0.blocks.0-1 layers.1.downsample layers.1.blocks.0-1 layers.2.downsample "
        "layers.2.blocks.0-5 layers.3.downsample layers.3.blocks.0-1 norm head",
    ),
    "BERT (transformers)": (bert, "bert.embeddings bert.encoder.layer.0-1 bert.pooler classifier"),
    "GPT-2 (transformers)": (gpt2, "transformer.wte transformer.wpe transformer.h.0-1 transformer.ln_f"),
    "T5 (transformers)": (
        t5,
        "shared encoder.block.0-1 encoder.final_layer_norm decoder.block.0-1 decoder.final_layer_norm",
    ),
    "Llama (transformers)": (
        lambda: llama(lambda: part("LlamaMLP", "gate_proj up_proj down_proj")),
        "model.embed_tokens model.layers.0-1 model.norm lm_head",
    ),
    "Mixtral (transformers)": (lambda: llama(experts), "model.embed_tokens model.layers.0-1 model.norm lm_head"),
    "nn.Transformer": (
        lambda: nn.Transformer(4, 2, 2, 2, 4, batch_first=True),
        "encoder.layers.0-1 encoder.norm decoder.layers.0-1 decoder.norm",
    ),
    "nanoGPT": (nanogpt, "transformer.wte transformer.wpe transformer.h.0-2 transformer.ln_f"),
    "litgpt": (litgpt, "model.transformer.wte model.transformer.h.0-2 model.transformer.ln_f model.lm_head"),
    "GIN (PyG)": (gin, "convs.0-2"),
    "U-Net": (unet, "inc down1 down2 up1 up2 outc"),
    "LSTM": (lambda: part("Tagger", "embedding", lstm=nn.LSTM(1, 1, 2), fc_out=layer()), "embedding lstm fc_out"),
    "GAN": (
        lambda: part("GAN", generator=part("G", model=dense(3)), discriminator=part("D", model=dense(3))),
        "generator.model.0 generator.model.2 generator.model.4 discriminator.model.0 discriminator.model.2 "
        "discriminator.model.4",
    ),
    "MLP beside loss and metric": (
        lambda: part("LitMLP", net=dense(3), criterion=nn.CrossEntropyLoss(), metric=nn.Identity()),
        "net.0 net.2 net.4",
    ),
    "autoencoder": (
        lambda: part("LitAE", encoder=dense(2), decoder=dense(2)),
        "encoder.0 encoder.2 decoder.0 decoder.2",
    ),
    "backbone and classifier": (
        lambda: part("Classifier", classifier=layer(), backbone=resnet18()),
        "backbone.conv1 backbone.bn1 backbone.layer1.0-1 backbone.layer2.0-1 backbone.layer3.0-1 backbone.layer4.0-1 "
        "backbone.fc classifier",
    ),
    "PINA": (pina, "_pina_models.0.model.0 _pina_models.0.model.2 _pina_models.0.model.4"),
    "NequIP": (
        nequip,
        " ".join(
            f"model.sole_model.model.func.{name}"
            for name in ["type_embed", "edge_embed", "layer0_convnet", "layer1_convnet", "output_block"]
        ),
    ),
    "DeepAR (gluonts)": (deepar, "model.embedder model.rnn model.param_proj"),
}


def listed(text):
    """The names in a list of components, with ``layer.0-3`` written out."""
    names = []
    for word in text.split():
        if numbers := re.fullmatch(r"(.*\.)(\d+)-(\d+)", word):
            first, last = int(numbers[2]), int(numbers[3])
            names += [f"{numbers[1]}{number}" for number in range(first, last + 1)]
        else:
            names.append(word)
    return names
