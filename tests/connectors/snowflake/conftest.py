"""Which tests of the sinks' suites take long with a stand-in for Snowflake: they run in `make soak` only."""

from __future__ import annotations

import pytest

LONG = {
    # Many examples, or many sessions.
    "test_any_cuts_in_a_row_equal_their_events_and_their_preview",
    "test_upsert_keeps_the_last_event_of_each_key",
    "test_a_replay_lies_beside_what_readers_find",
    "test_both_go_on_from_where_they_were_and_there_is_a_way_back",
    "test_a_sink_that_is_open_meanwhile_follows",
    "test_a_dropped_generation_is_gone_and_the_other_stays",
    "test_a_switch_made_twice_is_made_once",
    "test_events_that_came_late",
    "test_all_events_of_a_cut_and_of_a_partition",
    "test_a_key_is_gone_with_its_last_event",
    "test_what_is_not_there_is_not_erased",
    "test_writing_goes_on_between_erasures",
    "test_many",
    "test_all_generations",
    "test_a_second_erasure_finds_nothing",
    "test_late_events_written_again_after_a_crash_count_once",
    # Much the same as others that stay.
    "test_partitions_and_topics_do_not_touch_each_other",
    "test_what_was_written_is_read_back_by_its_offsets",
    "test_the_position_follows_each_cut_and_survives_a_new_sink",
    "test_audit_tells_partition_and_offset_of_each_row",
    "test_late_events_of_a_recreated_topic_are_counted_anew",
    "test_a_cut_of_an_older_schema_still_fits",
    "test_closing_twice_and_opening_again",
    "test_what_a_recreated_topic_had_before_is_not_read_back",
    "test_many_rows_of_several_chunks",
    "test_an_event_is_located_where_it_was_written_and_nowhere_else",
    "test_a_switch_to_a_generation_that_has_nothing",
    "test_an_event_of_a_cut_that_is_yet_to_come",
    "test_the_owner_of_a_topic_since_recreated_is_fenced",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and item.originalname in LONG and "snowflake" in item.path.parts:
            item.add_marker(pytest.mark.soak)
