"""transformers' common suites of image processors and feature extractors on ours."""

import unittest

from mirasol.features import MirasolFeatureExtractor, MirasolVideoProcessor
from tests.transformers_suites import sources  # noqa: F401  makes the next lines possible

from transformers_tests.test_feature_extraction_common import FeatureExtractionSavingTestMixin  # isort: skip
from transformers_tests.test_image_processing_common import (  # isort: skip
    ImageProcessingTester,
    ImageProcessingTestMixin,
)


class MirasolVideoProcessorTester(ImageProcessingTester):
    def _get_image_processing_classes(self):
        return {"pil": MirasolVideoProcessor}  # its name for processors without torchvision

    def prepare_image_processor_dict(self):
        return {"image_size": 20, "crop_fraction": 0.7, "image_mean": [0.4, 0.5, 0.6]}


class MirasolVideoProcessorTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = MirasolVideoProcessorTester


class MirasolFeatureExtractorTest(FeatureExtractionSavingTestMixin, unittest.TestCase):
    feature_extraction_class = MirasolFeatureExtractor

    @property
    def feat_extract_dict(self):
        return {"num_mel_bins": 8, "mean": -3.0, "std": 2.0}
