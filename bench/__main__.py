"""`python -m bench`: what can be measured with nothing running. `bench.facts` wants a system that is up."""

from bench import cpu

if __name__ == "__main__":
    cpu.main()
