"""The Token Turing Machine Combiner: a memory read and written once per chunk, at constant cost."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from .configuration_mirasol import MirasolCombinerConfig, MirasolConfig
from .modeling_mirasol_combiner import MirasolCombiner
from .modeling_mirasol_layers import MirasolEncoderLayer, attend

MEMORY_LIMIT = 100.0  # ours, against endless growth; what the reference writes in a few chunks stays below 10


class MirasolSummaryLinear(nn.Linear):
    """A linear layer with a class of its own for its initialisation (Xavier)."""


def summary_mlp(config: MirasolCombinerConfig, input_size: int, output_size: int) -> nn.Sequential:
    """Two linear layers of TokenLearner's narrow width."""
    return nn.Sequential(
        MirasolSummaryLinear(input_size, config.summarizer_hidden_size),
        ACT2FN[config.hidden_act],
        MirasolSummaryLinear(config.summarizer_hidden_size, output_size),
    )


class MirasolTokenLearner(nn.Module):
    """k weighted means of the tokens, the weights scored token by token (TokenLearner v1.1, arXiv 2106.11297)."""

    def __init__(self, config: MirasolCombinerConfig, num_tokens: int):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.score = summary_mlp(config, config.hidden_size, num_tokens)

    def forward(
        self, tokens: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch summary dim"]:
        """Return weighted means of the tokens; their normalised copy gives the weights only."""
        scores = self.score(self.norm(tokens)).masked_fill(~mask[..., None], float("-inf"))
        weights = scores.softmax(dim=1, dtype=torch.float32).to(tokens.dtype)
        return torch.einsum("btk,btd->bkd", weights, tokens)


class MirasolQuerySummary(nn.Module):
    """Summary of the tokens by k learned queries with multi-head attention."""

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: MirasolCombinerConfig, num_tokens: int):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.queries = nn.Parameter(torch.zeros(num_tokens, config.hidden_size))
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.kv_proj = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, tokens: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch summary dim"]:
        query = rearrange(self.q_proj(self.queries), "t (h d) -> 1 h t d", d=self.head_dim)
        key, value = rearrange(self.kv_proj(tokens), "b t (two h d) -> two b h t d", two=2, d=self.head_dim)
        mask = rearrange(mask, "batch token -> batch 1 1 token")
        return self.o_proj(attend(self, query.expand(len(tokens), -1, -1, -1), key, value, mask)[0])


class MirasolWriteValues(nn.Module):
    """Compute the tokens to write: the outputs, summarised over tokens and then mixed over channels."""

    def __init__(self, config: MirasolCombinerConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.over_tokens = summary_mlp(config, config.num_latents, config.num_write_tokens)
        self.over_channels = summary_mlp(config, config.hidden_size, config.hidden_size)

    def forward(self, outputs: Float[Tensor, "batch latent dim"]) -> Float[Tensor, "batch write dim"]:
        written = self.over_tokens(rearrange(self.norm(outputs), "batch latent dim -> batch dim latent"))
        return self.over_channels(rearrange(written, "batch dim write -> batch write dim"))


class MirasolAddEraseWrite(nn.Module):
    """Erase and add to the memory, gated by its own tokens (after Neural Turing Machines).

    As in the reference, neither gate is squashed, and the added term is 1 - weight x value, about one per chunk.
    """

    def __init__(self, config: MirasolCombinerConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.score = summary_mlp(config, config.hidden_size, config.num_write_tokens)
        self.erased = MirasolWriteValues(config)
        self.added = MirasolWriteValues(config)

    def forward(
        self, memory: Float[Tensor, "batch memory_slot dim"], outputs: Float[Tensor, "batch latent dim"]
    ) -> Float[Tensor, "batch memory_slot dim"]:
        weights = self.score(self.norm(memory)).softmax(dim=1, dtype=torch.float32).to(memory.dtype)
        erase, add = (
            1 - torch.einsum("bmn,bnd->bnmd", weights, values(outputs)) for values in (self.erased, self.added)
        )
        return memory * erase.prod(dim=1) + add.mean(dim=1)


SUMMARIES = {"token_learner": MirasolTokenLearner, "multi_head": MirasolQuerySummary, "add_erase": MirasolTokenLearner}


class MirasolTokenTuringUnit(nn.Module):
    """One step (arXiv 2211.09119): Z = Read([M, I]), O = Process(Z), M' = Write([M, I, O]), with r = m outputs O.

    Read and Write summarise by `summarizer`; "add_erase" reads as "token_learner" does and writes O only. Each has
    learned positions. Process is a transformer.

    The reference does not bound the memory: "add_erase" adds about one per chunk, the others may grow with their
    weights. Ours scales down each memory token that would leave +-`MEMORY_LIMIT`.
    """

    def __init__(self, config: MirasolCombinerConfig, num_inputs: int):
        super().__init__()
        self.adds_and_erases = config.summarizer == "add_erase"
        summary, num_latents = SUMMARIES[config.summarizer], config.num_latents
        num_read = config.memory_size + num_inputs
        self.read_position = nn.Parameter(torch.zeros(num_read, config.hidden_size))
        self.read = summary(config, num_latents)
        self.process_position = nn.Parameter(torch.zeros(num_latents, config.hidden_size))
        self.layers = nn.ModuleList(MirasolEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.write: nn.Module
        if self.adds_and_erases:
            self.write = MirasolAddEraseWrite(config)
        else:
            self.write_position = nn.Parameter(torch.zeros(num_read + num_latents, config.hidden_size))
            self.write = summary(config, config.memory_size)

    def forward(
        self,
        memory: Float[Tensor, "batch memory_slot dim"],
        inputs: Float[Tensor, "batch slot dim"],
        mask: Bool[Tensor, "batch slot"],
    ) -> tuple[Float[Tensor, "batch memory_slot dim"], Float[Tensor, "batch latent dim"]]:
        """The memory after this chunk, and the chunk's m vectors; inputs under a False mask are not read."""
        tokens = torch.cat([memory, inputs], dim=1)
        real = torch.cat([mask.new_ones(memory.shape[:2]), mask], dim=1)
        outputs = self.read(tokens + self.read_position, real) + self.process_position
        for layer in self.layers:
            outputs = layer(outputs)
        outputs = self.norm(outputs)
        if self.adds_and_erases:
            memory = self.write(memory, outputs)
        else:
            tokens = torch.cat([tokens, outputs], dim=1)
            real = torch.cat([real, mask.new_ones(outputs.shape[:2])], dim=1)
            memory = self.write(tokens + self.write_position, real)
        largest = memory.abs().amax(dim=-1, keepdim=True)
        return memory * (MEMORY_LIMIT / largest.clamp_min(MEMORY_LIMIT)), outputs


class MirasolTokenTuringCombiner(MirasolCombiner):
    """x_t = the outputs of a Token Turing Machine, whose memory carries what came before.

    The memory starts at zero. A missing modality is masked and needs no placeholder, because the m outputs are read
    from memory and inputs. A chunk with neither modality leaves the memory unchanged.
    """

    def __init__(self, config: MirasolConfig):
        super().__init__(config)
        self.memory_size = config.combiner_config.memory_size
        self.unit = MirasolTokenTuringUnit(config.combiner_config, sum(self.sizes))

    def forward(
        self,
        video_features: Float[Tensor, "batch chunk video_token video_dim"],
        audio_features: Float[Tensor, "batch chunk audio_token audio_dim"] | None,
        video_mask: Bool[Tensor, "batch chunk"],
        audio_mask: Bool[Tensor, "batch chunk"],
        stream_cache: dict[str, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "batch chunk latent dim"], dict[str, Tensor]]:
        """The m outputs of each chunk, and the memory after the last one."""
        slots = self.project(video_features, audio_features, video_mask, audio_mask, (0.0, 0.0))
        parts = zip((video_mask, audio_mask), self.sizes, strict=True)
        mask = torch.cat([part[..., None].expand(-1, -1, size) for part, size in parts], dim=2)
        real = rearrange(video_mask | audio_mask, "batch chunk -> batch chunk 1 1")
        if stream_cache is None:
            memory = slots.new_zeros(len(slots), self.memory_size, slots.shape[-1])
        else:
            memory = stream_cache["memory"]
        combined = []
        for chunk in range(slots.shape[1]):  # the recurrence itself: each chunk reads what the one before wrote
            written, outputs = self.unit(memory, slots[:, chunk], mask[:, chunk])
            memory = torch.where(real[:, chunk], written, memory)
            combined.append(outputs)
        return torch.stack(combined, dim=1), {"memory": memory}
