"""transformers' common model suite on Mirasol's two models."""

import unittest

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

import mirasol.auto  # noqa: F401  registers the classes
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration, MirasolModel
from tests.model.tiny import CHUNKS, LATENTS, TOKENS, media, questions, tiny_config
from tests.transformers_suites import sources  # noqa: F401  makes the next line possible

from transformers_tests.test_modeling_common import ModelTesterMixin  # isort: skip

# The suite looks up by class name which models are bases without a loss, and which have a head over text.
MODEL_MAPPING_NAMES["mirasol"] = "MirasolModel"
MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES["mirasol"] = "MirasolForConditionalGeneration"

HEADS, WIDTH = 2, 20  # of the temporal model (the encoder here) and of the decoder: the suite takes one for both


class MirasolModelTester:
    """What the suite asks of a model's tester: sizes, a small config and inputs for it."""

    batch_size = 7  # the largest batch that a test asks for, since random masks and times make no clips
    seq_length = decoder_seq_length = TOKENS
    encoder_seq_length = CHUNKS * LATENTS
    hidden_size, num_attention_heads, num_hidden_layers = WIDTH, HEADS, 2
    is_training = True

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent

    def get_config(self):
        return tiny_config(
            text_weight=1.0,  # a test compares the loss with the cross-entropy
            text_config={"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": 1},
        )

    def prepare_config_and_inputs_for_common(self):
        ids = questions(rows=self.batch_size)["decoder_input_ids"]
        return self.get_config(), {**media(batch=self.batch_size), "decoder_input_ids": ids, "input_ids": ids}


class MirasolModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (MirasolModel, MirasolForConditionalGeneration)
    additional_model_inputs = ["input_features", "video_chunk_mask", "audio_chunk_mask", "chunk_times"]
    is_encoder_decoder = True
    _is_composite = True

    def setUp(self):
        torch.manual_seed(0)
        self.model_tester = MirasolModelTester(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        inputs.pop("input_ids", None)  # tests of the vocabulary change them in place; ours are `decoder_input_ids`
        return inputs
