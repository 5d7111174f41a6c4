"""The submodules of well-known networks, without their maths: names, order, classes and own parameters are the same."""

from functools import cache

import torch
from torch import nn

LIST, SEQUENCE = nn.ModuleList, nn.Sequential


@cache
def made_class(name, base):
    return type(name, (base,), {})


def layer():
    return nn.Linear(1, 1)


def part(kind, layers="", /, own=False, **children):
    """A module of a class with this name, with layers (names in one string), then with other children.

    Args:
        kind: Name of the class.
        layers: Names of children that are layers.
        own: Whether a parameter stands directly on the module.
        children: Other children by name.
    """
    module = made_class(kind, nn.Module)()
    if own:
        module.scale = nn.Parameter(torch.ones(1))
    for name in layers.split():
        module.add_module(name, layer())
    for name, child in children.items():
        module.add_module(name, child)
    return module


def convolutions(count):
    """Convolutions with norm and activation in one sequence."""
    return SEQUENCE(*(made() for _ in range(count) for made in (layer, lambda: nn.BatchNorm1d(1), nn.ReLU)))


def dense(layers):
    return SEQUENCE(*(made() for _ in range(layers) for made in (layer, nn.ReLU)))


def resnet18():
    def stage(with_downsample):
        first = {"downsample": SEQUENCE(layer(), nn.BatchNorm1d(1))} if with_downsample else {}
        block = "conv1 bn1 conv2 bn2"
        return SEQUENCE(part("BasicBlock", block, **first), part("BasicBlock", block))

    stages = {f"layer{number}": stage(with_downsample=number > 1) for number in range(1, 5)}
    return part("ResNet", "conv1 bn1", **stages, fc=layer())


def vit(depth):
    mlp = "fc1 fc2"
    blocks = [
        part("Block", "norm1", attn=part("Attention", "qkv proj"), norm2=layer(), mlp=part("Mlp", mlp))
        for _ in range(depth)
    ]
    patch_embed = part("PatchEmbed", "proj")
    return part(
        "VisionTransformer", own=True, patch_embed=patch_embed, blocks=SEQUENCE(*blocks), norm=layer(), head=layer()
    )


def convnext(depths):
    def stage(number, depth):
        blocks = SEQUENCE(*(part("Block", "conv_dw norm", own=True, mlp=part("Mlp", "fc1 fc2")) for _ in range(depth)))
        before = {"downsample": SEQUENCE(layer(), layer())} if number else {}
        return part("ConvNeXtStage", **before, blocks=blocks)

    stages = SEQUENCE(*(stage(number, depth) for number, depth in enumerate(depths)))
    return part("ConvNeXt", stem=SEQUENCE(layer(), layer()), stages=stages, head=part("Head", "norm fc"))


def efficientnet(depths):
    excite = part("SqueezeExcite", "conv_reduce conv_expand")
    first = part("DepthwiseSeparableConv", "conv_dw bn1", se=excite, conv_pw=layer(), bn2=layer())
    blocks = [SEQUENCE(first)]
    for depth in depths:
        stage = [part("InvertedResidual", "conv_pw bn1 conv_dw bn2 conv_pwl bn3") for _ in range(depth)]
        blocks.append(SEQUENCE(*stage))
    after = {name: layer() for name in ("conv_head", "bn2", "classifier")}
    return part("EfficientNet", "conv_stem bn1", blocks=SEQUENCE(*blocks), **after)


def mobilenet_v2():
    def convolution():
        return made_class("Conv2dNormActivation", SEQUENCE)(layer(), nn.BatchNorm1d(1), nn.ReLU())

    def residual(convolutions):
        return part("InvertedResidual", conv=SEQUENCE(*(convolution() for _ in range(convolutions)), layer(), layer()))

    features = SEQUENCE(convolution(), residual(1), residual(2), residual(2), convolution())
    return part("MobileNetV2", features=features, classifier=SEQUENCE(nn.Dropout(), layer()))


def swin(depths):
    def stage(number, depth):
        blocks = SEQUENCE(*(part("SwinBlock", "norm1 attn norm2", mlp=part("Mlp", "fc1 fc2")) for _ in range(depth)))
        before = {"downsample": part("PatchMerging", "norm reduction")} if number else {}
        return part("SwinStage", **before, blocks=blocks)

    layers = SEQUENCE(*(stage(number, depth) for number, depth in enumerate(depths)))
    patch_embed = part("PatchEmbed", "proj norm")
    return part("Swin", patch_embed=patch_embed, layers=layers, norm=layer(), head=part("Head", "fc"))


def bert():
    embeddings = part("BertEmbeddings", "word_embeddings position_embeddings token_type_embeddings LayerNorm")
    encoder = part("BertEncoder", layer=LIST(bert_layer() for _ in range(2)))
    pooler = part("BertPooler", "dense")
    return part(
        "BertForSequenceClassification",
        bert=part("BertModel", embeddings=embeddings, encoder=encoder, pooler=pooler),
        classifier=layer(),
    )


def bert_layer():
    attention = part("Attention", self=part("SelfAttention", "query key value"), output=part("Out", "dense LayerNorm"))
    return part(
        "BertLayer", attention=attention, output=part("Out", "dense LayerNorm"), intermediate=part("In", "dense")
    )


def gpt2():
    blocks = LIST(
        part("GPT2Block", "ln_1", attn=part("Attn", "c_attn c_proj"), ln_2=layer(), mlp=part("MLP", "c_fc c_proj"))
        for _ in range(2)
    )
    module = part("GPT2LMHeadModel", transformer=part("GPT2Model", "wte wpe", h=blocks, ln_f=layer()), lm_head=layer())
    module.lm_head.weight, module.lm_head.bias = module.transformer.wte.weight, module.transformer.wte.bias
    return module


def t5():
    def stack(kinds):
        blocks = LIST(
            part("T5Block", layer=LIST(part(kind, "attention layer_norm") for kind in kinds)) for _ in range(2)
        )
        return part("T5Stack", block=blocks, final_layer_norm=layer())

    encoder = stack(["SelfAttention", "FeedForward"])
    decoder = stack(["SelfAttention", "CrossAttention", "FeedForward"])
    return part("T5ForConditionalGeneration", "shared", encoder=encoder, decoder=decoder)


def llama(mlp):
    blocks = LIST(
        part("LlamaDecoderLayer", self_attn=part("Attn", "q_proj k_proj v_proj o_proj"), mlp=mlp(), norm=layer())
        for _ in range(2)
    )
    return part(
        "LlamaForCausalLM", model=part("LlamaModel", "embed_tokens", layers=blocks, norm=layer()), lm_head=layer()
    )


def experts():
    return part("SparseMoe", "gate", experts=LIST(part("Expert", "w1 w2 w3") for _ in range(4)))


def gpt_block():
    return part("Block", "ln_1", attn=part("Attention", "c_attn c_proj"), ln_2=layer(), mlp=part("MLP", "c_fc c_proj"))


def nanogpt():
    parts = {
        "wte": layer(),
        "wpe": layer(),
        "drop": nn.Dropout(),
        "h": LIST(gpt_block() for _ in range(3)),
        "ln_f": layer(),
    }
    module = part("GPT", transformer=nn.ModuleDict(parts), lm_head=layer())
    module.transformer.wte.weight, module.transformer.wte.bias = module.lm_head.weight, module.lm_head.bias
    return module


def litgpt():
    parts = {"wte": layer(), "h": LIST(gpt_block() for _ in range(3)), "ln_f": layer()}
    return part("LitModule", model=part("GPT", "lm_head", transformer=nn.ModuleDict(parts)))


def gin():
    convs = LIST(part("GINConv", nn=part("MLP", lins=LIST([layer(), layer()]))) for _ in range(3))
    return part("GIN", convs=convs)


def unet():
    def double():
        return part("DoubleConv", double_conv=convolutions(2))

    def down():
        return part("Down", maxpool_conv=SEQUENCE(nn.MaxPool1d(2), double()))

    def up():
        return part("Up", "up", conv=double())

    return part("UNet", inc=double(), down1=down(), down2=down(), up1=up(), up2=up(), outc=part("OutConv", "conv"))


def pina():
    net = part("FeedForward", model=SEQUENCE(layer(), nn.Tanh(), layer(), nn.Tanh(), layer()))
    return part("PINN", _pina_models=LIST([net]), _loss_fn=nn.MSELoss())


def nequip():
    net = SEQUENCE()
    for name in ("type_embed", "edge_embed"):
        net.add_module(name, part("Embedding", "embed"))
    for number in range(2):
        net.add_module(
            f"layer{number}_convnet", part("ConvNetLayer", conv=part("InteractionBlock", "linear_1 fc linear_2"))
        )
    net.add_module("output_block", part("AtomwiseLinear", "linear"))
    gradients = part("GradientOutput", func=net)
    return part("NequIPLightningModule", model=nn.ModuleDict({"sole_model": part("GraphModel", model=gradients)}))


def deepar():
    proj = LIST([layer(), layer(), layer()])
    embedder = part("FeatureEmbedder", _embedders=LIST([layer()]))
    model = part("DeepARModel", param_proj=part("PtArgProj", proj=proj), embedder=embedder, rnn=nn.LSTM(1, 1))
    return part("DeepARLightningModule", model=model)
