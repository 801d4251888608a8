"""A worker's calls to its chief, whose answers are lost. Both are in this process."""

from __future__ import annotations

import socket
import threading
from concurrent import futures
from functools import partial

import grpc
import pytest

from bnas_larq.errors import RunError
from bnas_larq.files import read_lines
from bnas_larq.search.tuning.records import TRIALS
from bnas_larq.search.tuning.tuner_search import ORACLE_IP, ORACLE_PORT, TUNER_ID

SETTINGS = {"oracle": "evolution", "trials": 5, "population": 2, "sample": 2}


@pytest.fixture
def port(monkeypatch) -> int:
    """This process is the worker of a chief at this port."""
    from bnas_larq.search.tuning import tuner

    with socket.create_server(("127.0.0.1", 0)) as probe:
        number = probe.getsockname()[1]
    monkeypatch.setenv(TUNER_ID, "worker-1")
    monkeypatch.setenv(ORACLE_IP, "127.0.0.1")
    monkeypatch.setenv(ORACLE_PORT, str(number))
    monkeypatch.setattr(tuner, "PAUSE", 0.05)
    return number


def serve(oracle, port, lost=lambda method, request: False, done=True) -> grpc.Server:
    """keras-tuner's server for the oracle; a call that is `lost` is not answered, though `done`."""
    from keras_tuner.src import protos
    from keras_tuner.src.distribute.oracle_chief import OracleServicer

    class Losing(grpc.ServerInterceptor):
        def intercept_service(self, continuation, details):
            handler, method = continuation(details), details.method.split("/")[-1]

            def answer(request, context):
                response = handler.unary_unary(request, context) if done else None
                if lost(method, request):
                    context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
                return response if done else handler.unary_unary(request, context)

            return grpc.unary_unary_rpc_method_handler(
                answer, handler.request_deserializer, handler.response_serializer
            )

    server = grpc.server(futures.ThreadPoolExecutor(1), interceptors=[Losing()])
    protos.get_service_grpc().add_OracleServicer_to_server(OracleServicer(oracle), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server


def chief_of(search, folder):
    """The oracle of the search's chief, with what an earlier one wrote."""
    from bnas_larq.search.tuning.durable import STATE
    from bnas_larq.search.tuning.oracles import make_oracle
    from bnas_larq.search.tuning.tuner import PROJECT

    on_end = partial(search._record, folder)
    oracle = make_oracle(search.settings, search.encoding, search.seed, on_end)
    oracle._set_project_dir(str(folder), PROJECT)
    if (folder / PROJECT / STATE).is_file():
        oracle.reload()
    return oracle


def rows_of(folder):
    rows = read_lines(folder / TRIALS)
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture
def alone(found, tmp_path):
    """The records of the search without workers."""
    found(tmp_path / "alone", **SETTINGS)
    return rows_of(tmp_path / "alone")


def test_every_answer_is_lost_once(alone, port, search, planted, tmp_path):
    """The chief did what it was asked, and is asked again."""
    searched, calls = search(**SETTINGS), []
    planted.calls.clear()

    def lost(method, request):
        calls.append((method, request.SerializeToString()))
        return len(calls) % 2 == 1

    server = serve(chief_of(searched, tmp_path), port, lost)
    searched.take_part(tmp_path)
    server.stop(None)
    assert rows_of(tmp_path) == alone and len(planted.calls) == len(alone)
    assert calls[::2] == calls[1::2]
    assert {method for method, _ in calls} == {"CreateTrial", "GetTrial", "UpdateTrial", "EndTrial"}


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("method", ["CreateTrial", "GetTrial", "UpdateTrial", "EndTrial"])
def test_the_chief_is_lost_before_it_answers(method, done, alone, port, search, planted, tmp_path):
    """A new one takes its place. It knows no accuracy of a trial that had not ended."""
    searched, asked = search(**SETTINGS), threading.Event()
    planted.calls.clear()
    servers = []

    def lost(called, request):
        if called == method and planted.calls:  # a trial has ended, or is about to
            asked.set()
        return asked.is_set()

    def replace():
        asked.wait()
        servers[0].stop(None).wait()
        servers.append(serve(chief_of(searched, tmp_path), port))

    servers.append(serve(chief_of(searched, tmp_path), port, lost, done))
    successor = threading.Thread(target=replace)
    successor.start()
    searched.take_part(tmp_path)
    successor.join()
    servers[1].stop(None)
    assert rows_of(tmp_path) == alone and len(planted.calls) == len(alone)


def test_without_a_chief_there_is_a_sentence(port, search, monkeypatch, tmp_path):
    from keras_tuner.src.distribute import oracle_client

    monkeypatch.setattr(oracle_client, "TIMEOUT", 0.2)
    with pytest.raises(RunError, match=f"at 127.0.0.1:{port}. Received: DEADLINE_EXCEEDED: "):
        search(**SETTINGS).take_part(tmp_path)


def test_an_error_of_the_chief_reaches_the_user(port, search, planted, monkeypatch, tmp_path):
    searched = search(**SETTINGS)
    oracle = chief_of(searched, tmp_path)

    def full(*args, **kwargs):
        raise RunError("The disk is full.")

    monkeypatch.setattr(oracle, "update_trial", full)
    server = serve(oracle, port)
    with pytest.raises(RunError, match="UNKNOWN: Exception calling application: The disk is full"):
        searched.take_part(tmp_path)
    server.stop(None)
    assert len(planted.calls) == 1
