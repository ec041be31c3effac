from engine import SamplingParams
from engine.request import Generate, Read
from engine.scheduler import Scheduler


def reader(number, tokens):
    return Read(number, number, [0] * tokens, score=False)


def decoder(number):
    return Generate(number, number, SamplingParams(), [])


def steps(scheduler, count=1000):
    """Runs the plans as the engine would; yields [(request, tokens)] a step."""
    for _ in range(count):
        plan = scheduler.plan()
        if not plan.chunks:
            return
        for read, tokens in plan.chunks:
            read.done += tokens
            if read.done == len(read.ids):
                scheduler.remove(read)
        yield [(read.id, tokens) for read, tokens in plan.chunks]


def make(*requests, prefill=256, serial=True):
    scheduler = Scheduler(grid=64, prefill_tokens=prefill, serial=serial)
    for request in requests:
        scheduler.add(request)
    return scheduler


def test_a_segment_is_cut_on_its_grid_only():
    taken = [tokens for step in steps(make(reader(1, 500))) for _, tokens in step]
    assert taken == [64] * 7 + [52]


def test_a_question_passes_a_book():
    scheduler = make(reader(1, 100_000))
    scheduler.add(reader(2, 130))
    assert next(steps(scheduler)) == [(1, 64), (2, 64), (1, 64), (2, 64)]
    assert next(steps(scheduler))[:2] in ([(1, 64), (2, 2)], [(2, 2), (1, 64)])


def test_readers_share_equally_over_steps_of_one_chunk():
    scheduler = make(*(reader(n, 6400) for n in (1, 2, 3)), prefill=64)
    order = [step[0][0] for step in steps(scheduler, 30)]
    assert order == [1, 2, 3] * 10


def test_a_step_stays_within_its_budget():
    scheduler = make(*(reader(n, 1000 + n) for n in range(5)), prefill=192)
    assert all(sum(tokens for _, tokens in step) <= 192 for step in steps(scheduler))


def test_everything_is_read_once():
    scheduler, total = make(*(reader(n, 50 * n + 1) for n in range(9))), {}
    for step in steps(scheduler):
        for number, tokens in step:
            total[number] = total.get(number, 0) + tokens
    assert total == {n: 50 * n + 1 for n in range(9)} and not scheduler.readers


def test_whoever_decodes_gets_a_token_every_step_and_waits_for_one_chunk_only():
    scheduler = make(reader(1, 1000), decoder(2), decoder(3))
    plan = scheduler.plan()
    assert [request.id for request in plan.decodes] == [2, 3]
    assert [tokens for _, tokens in plan.chunks] == [64]


def test_when_forwards_are_joined_decoding_does_not_slow_reading():
    plan = make(reader(1, 1000), decoder(2), serial=False).plan()
    assert [tokens for _, tokens in plan.chunks] == [64] * 4


def test_an_aborted_reader_leaves_the_round():
    first, second = reader(1, 1000), reader(2, 1000)
    scheduler = make(first, second)
    scheduler.plan()
    scheduler.remove(first)
    assert {read.id for read, _ in scheduler.plan().chunks} == {2}
