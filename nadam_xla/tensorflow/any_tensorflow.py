"""Says which extra brings TensorFlow, where there is none. Of which versions runs, see runtime."""

from nadam_xla.frameworks import needed

needed("tensorflow", by="nadam_xla.tensorflow", extra="tensorflow")
