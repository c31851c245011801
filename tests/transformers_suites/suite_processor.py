"""transformers' common processor suite on Mirasol's processor, with the parts of the shipped checkpoint."""

import unittest

from mirasol import DEFAULT_CHECKPOINT, MirasolProcessor
from tests.transformers_suites import sources  # noqa: F401  makes the next line possible

from transformers_tests.test_processing_common import MODALITY_TEST_SPECS, ProcessorTesterMixin  # isort: skip

SHIPPED = MirasolProcessor.from_pretrained(DEFAULT_CHECKPOINT)
OWN = ("frames_per_second", "num_frames_per_chunk", "num_mel_frames_per_chunk", "max_chunks", "sampling")


# An array of sound needs its rate, as the arrays of pictures there need `do_sample_frames`.
MODALITY_TEST_SPECS["audio"]["call_time_kwargs"]["sampling_rate"] = SHIPPED.feature_extractor.sampling_rate


class MirasolProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = MirasolProcessor
    text_input_name = "decoder_input_ids"
    images_input_name = "pixel_values_videos"

    @classmethod
    def _setup_image_processor(cls):
        return SHIPPED.image_processor

    @classmethod
    def _setup_feature_extractor(cls):
        return SHIPPED.feature_extractor

    @classmethod
    def _setup_tokenizer(cls):
        return SHIPPED.tokenizer

    @staticmethod
    def prepare_processor_dict():
        """The time grid and the prompt, which no component holds."""
        return {name: getattr(SHIPPED, name) for name in (*OWN, "prompt_template")}
