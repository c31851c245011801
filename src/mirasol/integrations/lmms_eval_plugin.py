"""Entry point of the group `lmms_eval.models`: the name of the model and the place of its class.

It is a file of its own, because lmms-eval imports every plugin when it starts, and torch takes seconds.
"""


def manifest():
    """Return lmms-eval's description of the model `mirasol`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="mirasol", simple_class_path="mirasol.integrations.lmms_eval_model.Mirasol")
