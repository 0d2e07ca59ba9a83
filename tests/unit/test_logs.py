import logging

from serve_app.deployments.logs import join_serve_log


def test_records_of_the_package_reach_serves_handlers_once():
    heard = []

    class Keep(logging.Handler):
        def emit(self, record):
            heard.append(record.getMessage())

    ours, serves = logging.getLogger("serve_app"), logging.getLogger("ray.serve")
    before = ours.handlers[:], ours.propagate, ours.level
    handler = Keep()
    serves.addHandler(handler)
    try:
        join_serve_log()
        join_serve_log()
        logging.getLogger("serve_app.model.factory").info("weights are kept packed")
        logging.getLogger("serve_app.model.factory").debug("not this")
    finally:
        serves.removeHandler(handler)
        ours.handlers[:], ours.propagate, ours.level = before
    assert heard == ["weights are kept packed"]
