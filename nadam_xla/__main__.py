"""`python -m nadam_xla`: what is installed here, which update runs on which device, and why."""

from nadam_xla.diagnosis.command import main

if __name__ == "__main__":
    main()
