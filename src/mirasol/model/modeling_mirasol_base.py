"""Base class of all Mirasol models: loading, saving and initialisation."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_mirasol import MirasolConfig
from .modeling_mirasol_combiner import MirasolMeanPoolCombiner, MirasolTransformerCombiner
from .modeling_mirasol_decoder import MirasolDecoderLayer
from .modeling_mirasol_encoders import MirasolWindowEmbedding
from .modeling_mirasol_queries import MirasolPerceiverCombiner
from .modeling_mirasol_temporal import MirasolTemporalModel
from .modeling_mirasol_ttm import MirasolQuerySummary, MirasolSummaryLinear, MirasolTokenTuringUnit

# Modules whose own parameters are embeddings, queries or placeholders
EMBEDDINGS = (
    MirasolTransformerCombiner,
    MirasolMeanPoolCombiner,
    MirasolPerceiverCombiner,
    MirasolTokenTuringUnit,
    MirasolQuerySummary,
    MirasolWindowEmbedding,
)
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class MirasolPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by all Mirasol models."""

    config_class = MirasolConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values_videos"
    # Also video, but naming it makes transformers' pipeline require torchvision, which only its own processors need.
    input_modalities = ["audio", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["MirasolEncoderLayer", "MirasolDecoderLayer"]
    _supports_sdpa = True
    _can_compile_fullgraph = True
    _keep_in_fp32_modules_strict = {"feature_mean"}

    def __init__(self, config: MirasolConfig):
        super().__init__(config)
        # Attention modules hold their part's config, which a constructor call leaves unset.
        for part in (getattr(config, key) for key in config.sub_configs):
            if part._attn_implementation is None:
                part._attn_implementation = config._attn_implementation

    def set_attn_implementation(self, attn_implementation, allow_all_kernels: bool = False):
        """Choose the attention function of the whole model, or of each part: {"text_config": "eager"}."""
        # The modules of the parts are no PreTrainedModel; transformers would warn of each that it cannot be checked.
        chosen = attn_implementation
        wanted = chosen if isinstance(chosen, dict) else dict.fromkeys(self.config.sub_configs, chosen)
        checked = {
            key: self._check_and_adjust_attn_implementation(wanted[key], allow_all_kernels=allow_all_kernels)
            for key in self.config.sub_configs
            if key in wanted
        }
        for key, name in checked.items():
            getattr(self.config, key)._attn_implementation = name
        super().set_attn_implementation(attn_implementation, allow_all_kernels)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """Load a saved model; raise ValueError if `config` has a part of another width."""
        if isinstance(config, MirasolConfig) and pretrained_model_name_or_path is not None:
            where = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
            saved = MirasolConfig.from_pretrained(pretrained_model_name_or_path, **where)
            if not kwargs.get("ignore_mismatched_sizes"):
                _require_equal_widths(config, saved, pretrained_model_name_or_path)
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise a module's own parameters; transformers skips modules of ours that have none."""
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, EMBEDDINGS):
            for parameter in module.parameters(recurse=False):
                init.normal_(parameter, std=std)
        elif isinstance(module, MirasolSummaryLinear):
            # As in the reference: with small weights all summaries would start as the same mean.
            init.xavier_uniform_(module.weight)
        elif isinstance(module, MirasolTemporalModel):
            init.normal_(module.slot_embedding, std=std)
            init.normal_(module.mask_embedding, std=std)
        elif isinstance(module, MirasolDecoderLayer):
            init.constant_(module.cross_attention_gate, self.config.text_config.cross_attention_gate_init)
        if "feature_mean" in module._buffers:
            init.zeros_(module.get_buffer("feature_mean"))


def _require_equal_widths(config: MirasolConfig, saved: MirasolConfig, name) -> None:
    for part in config.sub_configs:
        found, expected = getattr(config, part).hidden_size, getattr(saved, part).hidden_size
        if found != expected:
            raise ValueError(
                f"Expected {part}.hidden_size={expected}, the width of the weights in {name}, found {found} in the "
                f"given config. Leave config out, or train a model of the new width from its start."
            )
