"""Transformers that predict the next token, in Linen and in NNX, with the same names in both."""

import jax
from flax import linen as nn
from flax import nnx

from tests.zoo.case import Case, Make, concrete, integers, linen_case, nnx_case


def transformer(
    num_blocks=2, width=8, num_heads=2, length=4, vocabulary=7, make: Make = concrete
) -> Case:
    """Layer norm first, learned positions, tied embeddings, and every block rematerialised."""
    tokens, labels = (integers(make, vocabulary, 2, length) for _ in range(2))
    net = _LinenTransformer(num_blocks, width, num_heads, length, vocabulary)
    return linen_case("transformer", net, tokens, labels, make=make)


def nnx_transformer(
    num_blocks=2, width=8, num_heads=2, length=4, vocabulary=7, make: Make = concrete
) -> Case:
    """The same model in NNX, without rematerialisation."""
    tokens, labels = (integers(make, vocabulary, 2, length) for _ in range(2))
    return nnx_case(
        "transformer in NNX",
        lambda: _NNXTransformer(num_blocks, width, num_heads, length, vocabulary, nnx.Rngs(0)),
        tokens,
        labels,
        make=make,
    )


class _LinenBlock(nn.Module):
    num_heads: int

    @nn.compact
    def __call__(self, x, mask):
        width = x.shape[-1]
        attention = nn.MultiHeadDotProductAttention(self.num_heads, name="attention")
        x = x + attention(nn.LayerNorm()(x), mask=mask)
        y = nn.gelu(nn.Dense(4 * width, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(width, name="down")(y)


class _LinenTransformer(nn.Module):
    num_blocks: int
    width: int
    num_heads: int
    length: int
    vocabulary: int

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.vocabulary, self.width, name="embed")
        shape = (self.length, self.width)
        positions = self.param("positions", nn.initializers.normal(0.02), shape)
        x = embed(tokens) + positions
        mask = nn.make_causal_mask(tokens)
        for index in range(self.num_blocks):
            x = nn.remat(_LinenBlock)(self.num_heads, name=f"block{index}")(x, mask)
        return embed.attend(nn.LayerNorm()(x))


class _NNXBlock(nnx.Module):
    def __init__(self, width: int, num_heads: int, rngs: nnx.Rngs):
        self.norm0 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads, width, decode=False, rngs=rngs)
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x, mask):
        x = x + self.attention(self.norm0(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norm1(x))))


class _NNXTransformer(nnx.Module):
    def __init__(
        self,
        num_blocks: int,
        width: int,
        num_heads: int,
        length: int,
        vocabulary: int,
        rngs: nnx.Rngs,
    ):
        self.embed = nnx.Embed(vocabulary, width, rngs=rngs)
        positions = jax.random.normal(rngs.params(), (length, width))
        self.positions = nnx.Param(0.02 * positions)
        self.num_blocks = num_blocks
        for index in range(num_blocks):
            setattr(self, f"block{index}", _NNXBlock(width, num_heads, rngs))
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens) + self.positions[...]
        mask = nnx.make_causal_mask(tokens)
        for index in range(self.num_blocks):
            x = getattr(self, f"block{index}")(x, mask)
        return self.embed.attend(self.norm(x))
