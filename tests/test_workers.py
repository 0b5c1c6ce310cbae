"""Results in order from other processes, of which some die (ROBUSTNESS case 36)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from functools import partial

import pytest

from stargap.errors import UsageError
from stargap.workers import alongside, each_ahead, each_alone, each_result

DIE = "__import__('os')._exit(3)"


def no_rescue(*job):
    raise AssertionError(job)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers):
    jobs = [(number, 7) for number in range(25)]
    assert list(each_result(divmod, jobs, workers, rescue=no_rescue)) == [divmod(*job) for job in jobs]
    assert list(each_result(divmod, [], workers, rescue=no_rescue)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_job_is_the_callers(workers):
    results = each_result(divmod, [(7, 2), (1, 0), (9, 4)], workers, rescue=no_rescue)
    assert next(results) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_other_processes_do_the_work():
    assert os.getpid() not in each_result(os.getpid, [()] * 3, 2, rescue=no_rescue)
    assert set(each_result(os.getpid, [()] * 3, 1, rescue=no_rescue)) == {os.getpid()}


def test_what_a_rescue_gives_takes_the_place_of_a_lost_result():
    """The job behind a dead process's may be rescued too, and every job has its results in its place."""
    jobs = [("0",), ("1 + 1",), (DIE,), ("2 + 2",), ("3 + 3",)]
    rescued = []

    def rescue(text):
        rescued.append(text)
        yield "rescued" if text == DIE else eval(text)

    assert list(each_result(eval, jobs, 2, rescue=rescue)) == [0, 2, "rescued", 4, 6]
    assert DIE in rescued


def test_alone_a_job_that_dies_gives_none_and_the_others_their_results():
    jobs = [("1",), (DIE,), ("2",), (DIE,)]
    assert list(each_alone(eval, jobs)) == [1, None, 2, None]


def test_ctrl_c_is_the_parents_alone():
    """Processes start with SIGINT blocked."""
    blocked = "__import__('signal').pthread_sigmask(0, [])"
    for found in each_result(eval, [(blocked,)] * 2, 2, rescue=no_rescue):
        assert signal.SIGINT in found


def test_processes_end_when_the_work_is_left():
    jobs = [("__import__('os').getpid()",), *[("__import__('time').sleep(60)",)] * 3]
    results = each_result(eval, jobs, 2, rescue=no_rescue)
    worker, begun = next(results), time.monotonic()
    results.close()
    while time.monotonic() < begun + 10:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail("a process went on")


def test_where_no_process_can_start_it_says_so(monkeypatch):
    from stargap import workers as processes

    monkeypatch.setattr(processes, "_follow_parent", partial(os._exit, 1))
    with pytest.raises(UsageError, match='if __name__ == "__main__"'):
        list(each_alone(divmod, [(1, 2)]))


def write_process(path):
    path.write_text(f"{path.read_text() if path.exists() else ''}{os.getpid()} ")
    return path


def test_alongside_work_is_another_processs(tmp_path):
    with alongside(write_process, tmp_path / "made") as result:
        assert result() == tmp_path / "made"
    (number,) = (tmp_path / "made").read_text().split()
    assert int(number) != os.getpid()
    with pytest.raises(FileNotFoundError), alongside(os.mkdir, tmp_path / "a" / "b"):
        pass


def test_alongside_work_is_this_processs_where_none_can_start(tmp_path, monkeypatch):
    from stargap import workers as processes

    monkeypatch.setattr(processes, "_follow_parent", partial(os._exit, 1))
    with alongside(write_process, tmp_path / "made") as result:
        assert not (tmp_path / "made").exists()
        assert result() == tmp_path / "made"
    assert (tmp_path / "made").read_text().split() == [str(os.getpid())]


def test_alongside_work_is_this_processs_in_one_that_may_have_no_others(tmp_path, monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # as Dask's workers are
    with alongside(write_process, tmp_path / "asked") as result:
        assert result() == tmp_path / "asked"
    with alongside(write_process, tmp_path / "not asked"):
        pass
    assert [(tmp_path / name).read_text().split() for name in ("asked", "not asked")] == [[str(os.getpid())]] * 2


def test_one_item_is_made_ahead_and_no_more():
    made, going_on = [], threading.Event()

    def items():
        for number in range(4):
            made.append(number)
            if number == 1:
                going_on.set()
            yield number

    ahead = each_ahead(items())
    assert next(ahead) == 0
    assert going_on.wait(10)
    assert made == [0, 1]
    assert list(ahead) == [1, 2, 3]


def test_an_error_while_an_item_is_made_ahead_comes_in_its_turn():
    ahead = each_ahead(6 // number for number in (1, 2, 0, 3))
    assert [next(ahead), next(ahead)] == [6, 3]
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    assert list(each_ahead([])) == []
    assert list(each_ahead([None, False])) == [None, False]
