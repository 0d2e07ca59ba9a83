"""A recorder that keeps what it is given."""

from collections import Counter, defaultdict


class Recorded:
    def __init__(self):
        self.counters = Counter()
        self.gauges = {}
        self.seen = set()
        self.histograms = defaultdict(list)

    def add(self, metric, value=1.0, **labels):
        assert metric.kind == "counter"
        key = self._key(metric, labels)
        self.seen.add(key)
        if value:
            self.counters[key] += value

    def set(self, metric, value, **labels):
        assert metric.kind == "gauge"
        self.gauges[self._key(metric, labels)] = value

    def observe(self, metric, value, **labels):
        assert metric.kind == "histogram"
        self.histograms[self._key(metric, labels)].append(value)

    @staticmethod
    def _key(metric, labels):
        assert set(labels) == set(metric.labels), (metric.name, labels)
        return " ".join([metric.name.removeprefix("tts_"), *labels.values()])
