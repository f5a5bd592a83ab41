"""What ``python -m nadam_xla`` says: versions, modules, devices, paths and a short measurement.

``facts`` names all that is found out. What needs no import is read by ``system``. All else is found
out by probes, each in a process of its own (``processes``), for an import may fail, abort or hang.
``probe`` is that process, and lists the stages of each probe: the modules that find something out.
``diagnosis`` asks all probes, ``report`` makes text of their answers, ``command`` is what is run.

Nothing else here imports a framework, and no stage is imported but by its probe.
"""
