"""transformers' common suites of image processors and feature extractors on ours."""

import unittest

import numpy as np

from mirasol.features import MirasolFeatureExtractor, MirasolVideoProcessor
from tests.transformers_suites import sources  # noqa: F401  makes the next lines possible

from transformers_tests.test_image_processing_common import (  # isort: skip
    ImageProcessingTester,
    ImageProcessingTestMixin,
)
from transformers_tests.test_sequence_feature_extraction_common import (  # isort: skip
    SequenceFeatureExtractionTestMixin,
)


class MirasolVideoProcessorTester(ImageProcessingTester):
    def _get_image_processing_classes(self):
        return {"pil": MirasolVideoProcessor}  # its name for processors without torchvision

    def prepare_image_processor_dict(self):
        return {"image_size": 20, "crop_fraction": 0.7, "image_mean": [0.4, 0.5, 0.6]}


class MirasolVideoProcessorTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = MirasolVideoProcessorTester


class MirasolFeatureExtractorTester:
    feature_size = 8
    batch_size, min_seq_length, max_seq_length = 7, 400, 2000
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)

    def prepare_feat_extract_dict(self):
        return {"num_mel_bins": self.feature_size, "mean": -3.0, "std": 2.0}

    def prepare_inputs_for_common(self, equal_length=False, numpify=False):
        lengths = range(self.min_seq_length, self.max_seq_length, self.seq_length_diff)
        lengths = [self.max_seq_length] * self.batch_size if equal_length else lengths
        rows = [np.random.rand(length, self.feature_size).astype(np.float32) for length in lengths]
        return rows if numpify else [row.tolist() for row in rows]


class MirasolFeatureExtractorTest(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = MirasolFeatureExtractor

    def setUp(self):
        self.feat_extract_tester = MirasolFeatureExtractorTester()
