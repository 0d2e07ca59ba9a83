from serve_app.cluster.admission import Backlog
from serve_app.cluster.registry import GONE_AFTER_S, Fleet, GeneratorStatus, IngressStatus, Quota


def test_the_service_is_not_ready_before_the_first_report():
    readiness = Fleet().readiness(0.0)
    assert not readiness.ready
    assert readiness.detail == "no generator has started yet"


def test_what_a_replica_is_doing_is_the_reason_for_not_being_ready():
    fleet = Fleet()
    fleet.report(GeneratorStatus("a", "loading", "the model is being loaded"), 0.0)
    assert fleet.readiness(1.0).detail == "the model is being loaded"


def test_one_ready_replica_is_enough():
    fleet = Fleet()
    fleet.report(GeneratorStatus("a", "ready", model="tiny", weights="random"), 0.0)
    fleet.report(GeneratorStatus("b", "failed", "out of memory"), 0.0)
    readiness = fleet.readiness(1.0)
    assert (readiness.ready, readiness.model, readiness.weights) == (True, "tiny", "random")


def test_a_silent_replica_no_longer_counts():
    fleet = Fleet()
    fleet.report(GeneratorStatus("a", "ready"), 0.0)
    fleet.report(GeneratorStatus("b", "ready"), 4.0)
    assert [status.replica for status in fleet.generators(GONE_AFTER_S + 1)] == ["b"]
    assert not fleet.readiness(GONE_AFTER_S + 5).ready


def test_the_latest_word_of_a_replica_counts():
    fleet = Fleet()
    fleet.report(GeneratorStatus("a", "ready", running=3), 0.0)
    fleet.report(GeneratorStatus("a", "ready", running=0), 1.0)
    assert [status.running for status in fleet.generators(1.0)] == [0]


def test_an_ingress_may_run_what_the_others_leave_and_at_least_its_share():
    fleet = Fleet()
    assert fleet.quota("x", 0.0).streams == 0
    for replica in ("a", "b"):
        fleet.report(GeneratorStatus(replica, "ready", slots=10), 0.0)
    fleet.report(GeneratorStatus("c", "loading", slots=10), 0.0)
    fleet.report(IngressStatus("x", Backlog(2, 0, 0.0)), 0.0)
    assert fleet.quota("x", 0.0).streams == 20
    assert fleet.quota("x", 0.0).generators == {"a", "b", "c"}
    fleet.report(IngressStatus("y", Backlog(5, 0, 0.0)), 0.0)
    assert (fleet.quota("x", 0.0).streams, fleet.quota("y", 0.0).streams) == (15, 18)
    fleet.report(IngressStatus("y", Backlog(20, 9, 30.0)), 1.0)
    assert fleet.quota("x", 1.0).streams == 10
    assert fleet.quota("y", GONE_AFTER_S + 0.5).streams == 0


def test_a_generator_whose_engine_may_be_stuck_gets_no_streams_and_its_slots_do_not_count():
    fleet = Fleet()
    for replica, responsive in (("a", True), ("b", False)):
        fleet.report(GeneratorStatus(replica, "ready", slots=10, responsive=responsive), 0.0)
    assert fleet.quota("x", 0.0) == Quota(10, frozenset("a"))
    fleet.report(GeneratorStatus("b", "ready", slots=10), 1.0)
    assert fleet.quota("x", 1.0) == Quota(20, frozenset("ab"))


def asked(replica: str, number: int, *, waiting: int = 0) -> IngressStatus:
    return IngressStatus(replica, Backlog(0, waiting, waiting * 4.0, number))


def test_what_waits_at_the_ingresses_is_added_up():
    fleet = Fleet()
    fleet.report(asked("x", 10, waiting=3), 0.0)
    fleet.report(asked("y", 20, waiting=2), 0.0)
    demand = fleet.demand(1.0)
    assert (demand.waiting, demand.waiting_s) == (5, 20.0)
    assert fleet.demand(GONE_AFTER_S + 1).waiting == 0


def test_arrivals_are_counted_between_two_reports():
    fleet = Fleet()
    fleet.report(asked("x", 10), 0.0)
    fleet.report(asked("y", 20), 0.0)
    assert fleet.demand(0.0).arrivals_hz == 0.0
    fleet.report(asked("x", 14), 2.0)
    fleet.report(asked("y", 21), 1.0)
    assert fleet.demand(2.0).arrivals_hz == 3.0


def test_an_ingress_that_was_silent_reports_no_arrivals():
    fleet = Fleet()
    fleet.report(asked("x", 10), 0.0)
    fleet.report(asked("x", 5000), GONE_AFTER_S + 100)
    assert fleet.demand(GONE_AFTER_S + 100).arrivals_hz == 0.0
    fleet.report(asked("x", 1), GONE_AFTER_S + 101)
    assert fleet.demand(GONE_AFTER_S + 101).arrivals_hz == 0.0, "it has been started anew"
