"""`python -m bench`: what can be measured with nothing running. `bench.facts` wants a system that is up."""

from bench import prefill

if __name__ == "__main__":
    prefill.main()
