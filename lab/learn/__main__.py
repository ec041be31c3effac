"""Learn again what the agent weighs by; see the module of each name for how.

python -m lab.learn summaries [--n CHAPTERS OF A SET] [--asked CHAPTERS] [--seed S]
"""

import argparse

from lab.learn import summaries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = parser.add_subparsers(dest="name", required=True)
    one = names.add_parser("summaries", help="services/agent/summary.json")
    one.add_argument("--n", type=int, default=400, help="chapters of each set")
    one.add_argument(
        "--asked", type=int, default=120, help="chapters that the model is asked about; 0: keep its weight"
    )
    one.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    summaries.learn(asked.n, asked.asked, asked.seed)


if __name__ == "__main__":
    main()
