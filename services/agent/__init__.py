"""Reading, retrieval, answers and summaries: plain functions over a model client.

`read_source`, `open_session`   sources into engine sessions      (reading.py)
`plan_reading`                  what that will cost               (plan.py)
`answer`                        a question's turn                 (answer.py; repositories: repo.py)
`summarise_chapter`, `_whole`   summaries made of quotes          (summarise.py)
`retrieve`                      BM25 over blocks                  (retrieve.py)
`locate`                        what the model said, in the text  (quotes.py)
"""

from services.agent.answer import answer
from services.agent.plan import Plan, plan_reading
from services.agent.quotes import locate
from services.agent.reading import open_session, read_source
from services.agent.retrieve import retrieve
from services.agent.summarise import summarise_chapter, summarise_whole
from services.agent.types import Answer, Emit, Hit, Quote, ReadingResult, SourceView, Summary

__all__ = [
    "Answer", "Emit", "Hit", "Plan", "Quote", "ReadingResult", "SourceView", "Summary",
    "answer", "locate", "open_session", "plan_reading", "read_source", "retrieve",
    "summarise_chapter", "summarise_whole",
]  # fmt: skip
