"""Learn again what the agent weighs by; see the module of each name for how.

python -m lab.learn summaries [--n CHAPTERS OF A SET] [--asked CHAPTERS] [--seed S]
python -m lab.learn answers [--stories N] [--seed S]
python -m lab.learn functions [--n DESCRIPTIONS OF A PACKAGE] [--asked DESCRIPTIONS] [--seed S] [--only-model]
"""

import argparse

from lab.learn import answers, functions, summaries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = parser.add_subparsers(dest="name", required=True)
    one = names.add_parser("summaries", help="services/agent/summary.json")
    one.add_argument("--n", type=int, default=400, help="chapters of each set")
    one.add_argument(
        "--asked", type=int, default=120, help="chapters that the model is asked about; 0: keep its weight"
    )
    two = names.add_parser("functions", help="services/agent/words.npz and find.json")
    two.add_argument("--n", type=int, default=40, help="descriptions of each package")
    two.add_argument("--asked", type=int, default=120, help="put to the model; 0: keep its weight")
    two.add_argument("--only-model", action="store_true", help="learn the model's weight only")
    three = names.add_parser("answers", help="services/agent/answering.json")
    three.add_argument("--stories", type=int, default=6, help="texts of FairytaleQA beside SQuAD's")
    for name in (one, two, three):
        name.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    if asked.name == "summaries":
        summaries.learn(asked.n, asked.asked, asked.seed)
    elif asked.name == "answers":
        answers.learn(asked.stories, asked.seed)
    elif asked.only_model:
        functions.learn_model(asked.asked, asked.seed)
    else:
        functions.learn(asked.n, asked.asked, asked.seed)


if __name__ == "__main__":
    main()
