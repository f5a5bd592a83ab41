"""Which update Keras's steps run."""

from collections import Counter

import keras
from keras import ops

from nadam_xla.diagnosis.errors import in_words
from nadam_xla.diagnosis.facts import DevicePath, Framework
from nadam_xla.keras import Nadam, update_path


def find_out(found: Framework) -> None:
    """The path of a plain ``Nadam()`` on each type of device, and what comes of a small step."""
    if found["backend"] not in ("tensorflow", "jax"):
        found["devices"] = [_path_on_this_device("any", 1)]
        return
    types = Counter(name.partition(":")[0].lower() for name in keras.distribution.list_devices())
    for device, count in types.items():
        with keras.device(f"{device}:0"):
            found["devices"].append(_path_on_this_device(device, count))


def _path_on_this_device(name: str, count: int) -> DevicePath:
    variable, optimizer = keras.Variable([1.0, 2.0, 3.0]), Nadam()
    optimizer.build([variable])
    update, reason = update_path(optimizer)
    try:
        optimizer.apply([ops.ones(3)], [variable])
        ops.convert_to_numpy(variable)
        step = "ran"
    except Exception as error:
        step = in_words(error)
    return {
        "device": name,
        "kind": None,
        "count": count,
        "update": update,
        "reason": reason,
        "step": step,
    }
