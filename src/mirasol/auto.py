"""The public classes, registered with transformers' Auto classes by importing this module."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from mirasol.chunks.processing_mirasol import MirasolProcessor
from mirasol.features import MirasolFeatureExtractor, MirasolVideoProcessor
from mirasol.model.configuration_mirasol import MirasolConfig
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration, MirasolModel

# By this name the any-to-any pipeline and `transformers serve` know which models they may run.
MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES["mirasol"] = MirasolForConditionalGeneration.__name__
AutoConfig.register("mirasol", MirasolConfig)
AutoModel.register(MirasolConfig, MirasolModel)
AutoModelForSeq2SeqLM.register(MirasolConfig, MirasolForConditionalGeneration)
AutoModelForMultimodalLM.register(MirasolConfig, MirasolForConditionalGeneration)
AutoImageProcessor.register(MirasolConfig, MirasolVideoProcessor)
AutoFeatureExtractor.register(MirasolConfig, MirasolFeatureExtractor)
AutoProcessor.register(MirasolConfig, MirasolProcessor)
