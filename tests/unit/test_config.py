"""The configuration's own rules: what it refuses, and in which words."""

import pytest
import yaml
from pydantic import ValidationError

from serve_app.config import AppConfig, TextConfig
from serve_app.session.utterance import TextPipeline

TALE = "Once there was a fox, and it met a hen. It said good morning! Was it polite? Nobody knows."


def _read(text):
    return AppConfig.model_validate(yaml.safe_load(text))


def _chunks(config, text):
    pipeline = TextPipeline(config.text, config.engine.max_chunk_characters).open("english")
    return pipeline.push(text) + pipeline.flush()


def _refusal(text):
    with pytest.raises(ValidationError) as refused:
        _read(text)
    (error,) = refused.value.errors()
    return error


def test_a_configured_length_changes_where_text_is_cut():
    config = _read("text: {first_chunk_characters: 20, chunk_budget_characters: 20, longest_chunk_characters: 30}")
    assert max(map(len, _chunks(config, TALE))) <= 30
    assert max(map(len, _chunks(AppConfig(), TALE))) > 30
    later_first = _chunks(_read("text: {first_chunk_characters: 100}"), TALE)[0]
    assert len(later_first) > len(_chunks(AppConfig(), TALE)[0])


def test_cleaning_can_be_switched_off():
    text = "**Great** news 😀 for you"
    assert _chunks(AppConfig(), text) == ["Great news for you"]
    assert _chunks(_read("text: {markdown: false}"), text) == ["**Great** news for you"]
    assert _chunks(_read("text: {emoji: keep}"), text) == ["Great news 😀 for you"]
    assert _chunks(_read("text: {markdown: false, emoji: keep}"), text) == [text]


def test_a_configured_lexicon_is_part_of_the_pipeline():
    config = _read("text: {lexicon: {sql: sequel, AI: A I}}")
    pipeline = TextPipeline(config.text, 600)
    assert pipeline.lexicon.spoken("SQL and AI, not ai") == "sequel and A I, not ai"


@pytest.mark.parametrize("entry", ["'': x", "sql: ''", "sql: '...'", "sql: 5", "NO: nein"])
def test_a_wrong_lexicon_is_refused(entry):
    assert _refusal(f"text: {{lexicon: {{{entry}}}}}")["loc"][:2] == ("text", "lexicon")


def test_a_chunk_longer_than_the_engine_takes_is_refused_with_both_numbers():
    error = _refusal("{text: {longest_chunk_characters: 700}, engine: {max_chunk_characters: 500}}")
    assert error["type"] == "chunks_longer_than_the_engine_takes"
    for part in ("text.longest_chunk_characters is 700", "500", "engine.max_chunk_characters"):
        assert part in error["msg"]
    assert _refusal("{engine: {max_chunk_characters: 299}}")["type"] == error["type"]
    _read("{engine: {max_chunk_characters: 300}}")


def test_chunk_lengths_out_of_order_are_refused_with_all_three():
    error = _refusal("text: {first_chunk_characters: 250}")
    assert (error["type"], error["loc"]) == ("chunk_lengths_out_of_order", ("text",))
    for part in ("first_chunk_characters (250)", "chunk_budget_characters (220)", "longest_chunk_characters (300)"):
        assert part in error["msg"]


def test_more_generators_at_least_than_at_most_are_refused_with_both():
    error = _refusal("generator: {min_replicas: 2}")
    assert (error["type"], error["loc"]) == ("replicas_out_of_order", ("generator",))
    assert error["msg"].startswith("min_replicas is 2 and max_replicas is 1")


@pytest.mark.parametrize(
    ("text", "loc", "kind"),
    [
        ("text: {max_characters: 100}", ("text", "max_characters"), "extra_forbidden"),
        ("text: {first_chunk_characters: 0}", ("text", "first_chunk_characters"), "greater_than_equal"),
        ("text: {longest_chunk_characters: 6000}", ("text", "longest_chunk_characters"), "less_than_equal"),
        ("text: {emoji: speak}", ("text", "emoji"), "literal_error"),
        ("text: {markdown: sometimes}", ("text", "markdown"), "bool_parsing"),
    ],
)
def test_an_unknown_key_or_a_value_out_of_bounds_is_named(text, loc, kind):
    error = _refusal(text)
    assert (error["loc"], error["type"]) == (loc, kind)


def test_every_text_setting_is_described():
    assert all(field.description for field in TextConfig.model_fields.values())


def test_an_alias_is_kept_as_names_are_compared():
    config = _read("voices: {aliases: {' Nova ': austen, ÉCHO: makima}}")
    assert config.voices.aliases == {"nova": "austen", "écho": "makima"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("voices: {aliases: {nova: ../etc}}", "string_pattern_mismatch"),
        ("voices: {aliases: {nova: ''}}", "string_pattern_mismatch"),
        ("voices: {aliases: {'': austen}}", "string_too_short"),
        ("voices: {aliases: {' ': austen}}", "alias"),
        ("voices: {aliases: {nova: austen, NOVA: makima}}", "alias"),
        ("voices: {aliases: {" + ", ".join(f"v{number}: austen" for number in range(1001)) + "}}", "too_long"),
    ],
)
def test_an_alias_that_means_nothing_or_two_things_is_refused(text, kind):
    assert _refusal(text)["type"] == kind


def test_weights_that_each_replica_would_choose_for_itself_are_refused_and_the_others_named():
    error = _refusal("model: {weights: auto}")
    assert error["loc"] == ("model", "weights")
    assert error["type"] == "weights_are_chosen_once"
    for word in ("'auto' was removed", "each replica chose for itself", "'plain'", "'int8'", "'int4'", "'torch'"):
        assert word in error["msg"]


def test_a_generator_waits_for_an_hour_unless_configured():
    assert AppConfig().generator.startup_wait_s == 3600
    assert _read("generator: {startup_wait_s: 0}").generator.startup_wait_s == 0
    assert _refusal("generator: {startup_wait_s: -1}")["type"] == "greater_than_equal"


def test_the_old_name_of_a_key_is_accepted_with_a_warning_and_not_beside_the_new_one():
    with pytest.warns(FutureWarning, match=r"newcomer_patience_s is now engine\.new_request_patience_s"):
        config = _read("engine: {newcomer_patience_s: 0.5}")
    assert config.engine.new_request_patience_s == 0.5
    assert _refusal("engine: {newcomer_patience_s: 0.5, new_request_patience_s: 1}")["type"] == "extra_forbidden"
