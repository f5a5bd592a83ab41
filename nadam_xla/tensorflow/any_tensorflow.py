"""Says which extra brings TensorFlow, where there is none. Of which versions runs, see runtime."""

from nadam_xla.frameworks import needed

TESTED_TENSORFLOW = "2.18 to 2.21"

needed("tensorflow", by="nadam_xla.tensorflow", extra="tensorflow")
