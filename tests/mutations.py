"""Small mistakes that somebody could make, each with the unit tests that must notice it: scripts/mutate.

Each changes one place, found by a text that occurs once in its file. tests/unit/test_mutations.py says where
that is no longer so: then the text is to be anchored anew, or the mistake can be made no more and goes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """In `file` `old`, which occurs once, becomes `new`; one of `tests`, nodes of tests/unit, fails then."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _in(folder: str, *mutations: tuple[str, str, str, str, str]) -> list[Mutation]:
    return [
        Mutation(name, f"torchmar/{folder}{file}.py", old, new, tuple(tests.split()))
        for name, file, old, new, tests in mutations
    ]


GUARDS = "test_release_guards.py::"

CLIENT = _in(
    "client/",
    (
        "ready does not scale",
        "_management",
        "if described.min_workers != workers:",
        "if False:",
        f"{GUARDS}test_as_many_workers_as_are_wanted",
    ),
    (
        "unregistered without an answer is unregistered",
        "_management",
        "                raise error from None",
        "                pass",
        "test_release_bookkeeping.py::test_a_version_that_went_without_an_answer_is_gone",
    ),
    (
        "a worker's death is not seen",
        "_management",
        "if is_another and not worker.ready:",
        "if False:",
        "test_waiting.py::test_a_process_that_is_replaced_while_it_loads_has_died",
    ),
    (
        "more workers than were asked for will do",
        "_management",
        "(workers is None or len(model.workers) == workers)",
        "True",
        "test_waiting.py::test_as_many_are_waited_for_as_were_asked_for",
    ),
    (
        "the first page is all",
        "_management",
        "if following is None or following == token:",
        "if True:",
        "test_http_errors.py::test_models_come_page_by_page",
    ),
    (
        "TorchServe's defaults are taken for numbers",
        "_management",
        "(whole and least <= value <= _JAVAS_LARGEST)",
        "whole",
        "test_http_errors.py::test_what_torchserve_would_misunderstand_is_refused",
    ),
    (
        "redirects are followed",
        "_http",
        "allow_redirects=False",
        "allow_redirects=True",
        "test_http_errors.py::test_a_redirect_is_an_error_and_is_not_followed",
    ),
    (
        "any timeout will do",
        "_http",
        "not 0 < value <= threading.TIMEOUT_MAX",
        "value is None",
        "test_http_errors.py::test_a_timeout_that_no_socket_can_wait",
    ),
    (
        "what is no success is returned",
        "_http",
        "if response.status_code < 300:\n            return response",
        "if response.status_code < 500:\n            return response",
        "test_http_errors.py::test_http_where_the_server_speaks_https",
    ),
    (
        "a key that was renewed meanwhile is renewed again",
        "_http",
        "                return\n            if self.renew(",
        "                pass\n            if self.renew(",
        "test_renewal.py::test_a_key_that_was_renewed_meanwhile_is_not_renewed_again",
    ),
    (
        "the environment's proxies are used",
        "_connect",
        "session.trust_env = False",
        "session.trust_env = True",
        "test_http_errors.py::test_proxies_and_netrc_of_the_environment_are_ignored",
    ),
    (
        "a split of more than all",
        "_split",
        "if total > 1:",
        "if total > 2:",
        "test_split.py::test_what_cannot_be_a_split_is_refused",
    ),
    (
        "a share above one",
        "_split",
        "not 0 <= share <= 1",
        "not 0 <= share",
        "test_split.py::test_what_cannot_be_a_split_is_refused",
    ),
    (
        "the same users meet each candidate",
        "_split",
        'f"{model}\\0{key}"',
        'f"{key}"',
        "test_split.py::test_the_point_is_pinned",
    ),
    (
        "labels are not looked at",
        "_metrics",
        "and labels.items() <= sample.labels.items()",
        "",
        "test_metrics.py::test_a_total_is_of_the_values_with_these_labels",
    ),
    (
        "labels stay escaped",
        "_metrics",
        "{name: _unescape(raw) for",
        "{name: raw for",
        "test_metrics.py::test_one_sample",
    ),
    (
        "a key file is read once",
        "_tokens",
        "if stamp == seen:",
        "if seen is not None:",
        "test_tokens.py::test_is_read_again_after_it_was_rewritten",
    ),
)

MEASURE = _in(
    "measure/",
    (
        "a failure is no failure",
        "answers",
        "    if worse:",
        "    if False:",
        "test_release_judge.py::test_without_a_default_any_failure_fails",
    ),
    (
        "a crash is as good as a refusal",
        "answers",
        "else 1 if 400 <= sample.status < 500 else 2",
        "else 1",
        "test_release_judge.py::test_a_request_that_was_refused_must_not_crash_now",
    ),
    (
        "a wrong answer is right",
        "answers",
        "    if wrong:",
        "    if False:",
        "test_release_judge.py::test_a_long_answer_shows_what_is_wrong_with_it",
    ),
    (
        "who answers nothing agrees",
        "answers",
        "if one.agrees is not None]",
        "]",
        "test_release_judge.py::test_answers_that_cannot_be_compared",
    ),
    (
        "another answer is the same",
        "answers",
        "if not (sample.ok and same(sample)):",
        "if not sample.ok:",
        "test_release_judge.py::test_a_long_answer_shows_what_is_wrong_with_it",
    ),
    (
        "a default that wavers is compared with",
        "answers",
        "if not good or not all(same(sample) for sample in good[1:]):",
        "if not good:",
        "test_release_judge.py::test_answers_that_cannot_be_compared",
    ),
    (
        "a slow median passes",
        "latency",
        "if least > 0:",
        "if False:",
        "test_release_judge.py::test_three_times_slower_fails",
    ),
    (
        "noise is a pass",
        "latency",
        "if most > 0:",
        "if False:",
        "test_release_judge.py::test_noise_larger_than_the_difference_is_inconclusive",
    ),
    (
        "a slow tail passes",
        "latency",
        'if chance < SIGNIFICANCE:\n        return Finding("p99"',
        'if False:\n        return Finding("p99"',
        "test_release_judge.py::test_three_times_slower_fails",
    ),
    (
        "few samples tell of a tail",
        "latency",
        "if few > _DOUBT:",
        "if False:",
        "test_release_judge.py::test_how_many_slow_answers_are_more_than_chance",
    ),
    (
        "the tail is held against the median",
        "latency",
        "edge = limit(nearest_rank(before, 0.99))",
        "edge = limit(nearest_rank(before, 0.5))",
        "test_release_judge.py::test_as_fast_passes",
    ),
    (
        "a millisecond counts",
        "latency",
        "seconds + negligible_seconds)",
        "seconds)",
        "test_release_judge.py::test_what_nobody_feels_is_no_slowdown",
    ),
    (
        "one sample is enough",
        "latency",
        "(1 if default is None else MIN_SAMPLES)",
        "1",
        "test_release_judge.py::test_too_few_samples_are_inconclusive",
    ),
    (
        "errors of the traffic pass",
        "latency",
        'if chance < SIGNIFICANCE:\n        return Finding("error rate"',
        'if False:\n        return Finding("error rate"',
        "test_release_judge.py::test_error_rates",
    ),
    (
        "the wait is the version's own",
        "samples",
        "max(0.0, self.seconds - self.waited)",
        "self.seconds",
        "test_release_judge.py::test_what_requests_waited_behind_others_is_not_the_versions_time",
    ),
    (
        "one success makes good for a failure",
        "samples",
        "if Outcome.FAIL in outcomes:",
        "if outcomes == {Outcome.FAIL}:",
        "test_release_judge.py::test_the_gate_is_all_of_them",
    ),
    (
        "nothing judged is a pass",
        "samples",
        "if outcomes == {Outcome.PASS} else",
        "if outcomes <= {Outcome.PASS} else",
        "test_release_judge.py::test_where_nothing_was_judged_nothing_is_known",
    ),
    (
        "one rank too low",
        "statistics",
        "math.ceil(share * count)",
        "math.floor(share * count)",
        "test_release_judge.py::test_how_many_slow_answers_are_more_than_chance",
    ),
    (
        "an interval of one side",
        "statistics",
        "(1 - confidence) / 2",
        "(1 - confidence)",
        "test_release_judge.py::test_an_interval_leaves_as_much_out_at_both_ends",
    ),
    (
        "a hypergeometric term too few",
        "statistics",
        "for n in range(first, last + 1)",
        "for n in range(first, last)",
        "test_release_judge.py::test_how_many_slow_answers_are_more_than_chance",
    ),
    (
        "a binomial term too few",
        "statistics",
        "range(most + 1)",
        "range(most)",
        "test_release_judge.py::test_how_many_slow_answers_are_more_than_chance",
    ),
    (
        "the wait for a batch is the queue's",
        "queues",
        "own = described.max_batch_delay / 1000 if",
        "own = 0.0 if",
        "test_release_watch.py::test_a_wait_for_the_batch_is_the_versions_own",
    ),
    (
        "all waits are one request's",
        "queues",
        "(now.seconds[version] - before.seconds[version]) / requests",
        "now.seconds[version] - before.seconds[version]",
        "test_release_watch.py::test_the_wait_of_a_request_is_what_its_version_waited_meanwhile",
    ),
)

COMPARE = _in(
    "",
    (
        "2080 is 2081",
        "compare",
        " and (isinstance(one, float) or isinstance(other, float)):",
        ":",
        "test_compare.py::test_what_does_not_say_the_same",
    ),
    (
        "true is 1",
        "compare",
        "return isinstance(value, int | float) and not isinstance(value, bool)",
        "return isinstance(value, int | float)",
        "test_compare.py::test_what_is_no_number_is_close_to_none",
    ),
    (
        "a list is as long as its beginning",
        "compare",
        "return len(one) == len(other) and all(map(is_close",
        "return all(map(is_close",
        "test_compare.py::test_what_does_not_say_the_same",
    ),
    (
        "any score will do",
        "compare",
        'and abs(row["score"] - partner["score"]) <= slack',
        "",
        "test_compare.py::test_what_does_not_say_the_same",
    ),
    (
        "two boxes have one partner",
        "compare",
        "free.remove(partner)",
        "pass",
        "test_compare.py::test_what_says_the_same",
    ),
    (
        "ids may be exchanged",
        "compare",
        '.setdefault(row["id"], partner["id"]) == partner["id"]',
        '.setdefault(row["id"], partner["id"]) != ""',
        "test_compare.py::test_tracks_are_followed_over_all_frames",
    ),
    (
        "each letter is an edit",
        "compare",
        "(letter != target)",
        "1",
        "test_compare.py::test_what_says_the_same",
    ),
    (
        "vectors of two lengths",
        "compare",
        "if len(one) != len(other):\n        return False",
        "one, other = one[: len(other)], other[: len(one)]",
        "test_compare.py::test_what_does_not_say_the_same",
    ),
    (
        "a mark is a part of the text",
        "files",
        'raw.decode("utf-8-sig")',
        'raw.decode("utf-8")',
        "test_files.py::test_a_byte_order_mark_is_no_part_of_a_text",
    ),
    (
        "a link is followed when it is removed",
        "files",
        "if folder.is_symlink():",
        "if False:",
        "test_files.py::test_links_are_removed_and_not_followed",
    ),
    (
        "a changed file is whole",
        "mar",
        'if recorded[name] != {"sha256": present[name].sha256, "size": present[name].size}',
        "if recorded[name] is None",
        "test_mar.py::test_one_changed_byte_in_any_file_is_named",
    ),
    (
        "an added file is none",
        "mar",
        "sorted(present.keys() - recorded.keys())",
        "()",
        "test_mar.py::test_removed_and_added_files_are_named",
    ),
    (
        "what was verified is not held against",
        "mar",
        "or hashlib.sha256(found[name]).hexdigest() != known[name]",
        "",
        "test_manifest.py::test_golden_requests_are_those_that_were_verified",
    ),
    (
        "a configuration without end",
        "mar",
        "if _expanded(node, {}) > MAX_NODES:",
        "if False:",
        "test_mar.py::test_a_config_that_expands_without_end_is_refused",
    ),
    (
        "numbers of any length",
        "mar",
        "if len(node.value) > MAX_DIGITS:",
        "if False:",
        "test_mar.py::test_a_number_that_nobody_can_print_is_refused",
    ),
)

PACK = _in(
    "pack/",
    (
        "a .mar is not digested when it was copied",
        "_copy",
        "if sha256 != archive.sha256:",
        "if False:",
        f"{GUARDS}test_what_was_changed_after_it_was_verified_is_not_copied",
    ),
    (
        "a source may have another digest",
        "_source",
        "if self.sha256 not in (None, sha256):",
        "if False:",
        "test_pack.py::test_other_bytes_than_were_digested_are_found_when_read_back",
    ),
    (
        "a source may change meanwhile",
        "_source",
        "if _stamp(os.fstat(file)) != self.stamp:",
        "if False:",
        "test_pack.py::test_a_file_that_changed_since_it_was_looked_at_is_refused",
    ),
    (
        "what Python has cached is packed",
        "_source",
        "elif path.is_file() and PYCACHE not in path.relative_to(folder).parts:",
        "elif path.is_file():",
        "test_pack.py::test_what_python_has_cached_is_not_packed",
    ),
    (
        "another archive's name is taken",
        "_place",
        "os.link(temporary, target)  # fails",
        "temporary.replace(target)  # fails",
        "test_pack.py::test_what_is_there_already_stays",
    ),
    (
        "another folder's name is taken",
        "_place",
        "        if not force:\n            raise name_taken_error(target) from None",
        "",
        "test_pack.py::test_what_is_there_already_stays",
    ),
    (
        "what was begun is left",
        "_place",
        "    finally:\n        _remove(temporary)",
        "    finally:\n        pass",
        "test_pack.py::test_a_file_that_changed_since_it_was_looked_at_is_refused",
    ),
    (
        "large data begins anywhere",
        "_zip",
        "if self.size >= SMALL:",
        "if False:",
        "test_pack.py::test_large_data_begins_on_a_page",
    ),
    (
        "entries come as they were given",
        "_zip",
        "for name in sorted(contents.keys() - {DIGESTS})]",
        "for name in contents if name != DIGESTS]",
        "test_pack.py::test_sizes_stand_before_the_data",
    ),
    (
        "a time before 1980",
        "_zip",
        "max(int(text), earliest)",
        "int(text)",
        "test_archive.py::test_source_date_epoch_is_the_time_of_every_entry",
    ),
    (
        "parity of other files is kept",
        "_variant",
        "contents.pop(mar.PARITY, None)",
        "pass",
        "test_pack.py::test_a_variant_has_what_is_changed_and_the_rest",
    ),
    (
        "a variant of what was changed",
        "_variant",
        "if hashlib.sha256(raw).hexdigest() != file.sha256:",
        "if False:",
        "test_pack.py::test_a_folder_that_is_another_by_now_is_not_taken",
    ),
)

RELEASE = _in(
    "release/",
    (
        "the default is not checked after the switch",
        "_steps",
        "if found != run.version:",
        "if False:",
        f"{GUARDS}test_a_switch_that_somebody_has_overtaken_is_none",
    ),
    (
        "the default may have no READY worker",
        "_gate",
        "if described.ready_workers < self.workers:",
        "if False:",
        "test_release_under_way.py::test_what_has_no_worker_by_now_does_not_become_the_default",
    ),
    (
        "a watch ignores another default",
        "_watch",
        "if described.version != run.version:",
        "if False:",
        f"{GUARDS}test_a_watch_sees_that_somebody_has_changed_the_default",
    ),
    (
        "a watch ignores workers that are gone",
        "_watch",
        "if described.ready_workers < run.workers:",
        "if False:",
        f"{GUARDS}test_a_watch_sees_that_a_worker_is_gone",
    ),
    (
        "a gate ignores another default",
        "_gate",
        "if now not in {run.default, run.version}:",
        "if False:",
        "test_release_gate.py::test_a_default_that_somebody_sets_meanwhile_ends_the_gate",
    ),
    (
        "a failing warm-up is ignored",
        "_gate",
        "if failed.outcome is Outcome.FAIL:",
        "if False:",
        "test_release_gate.py::test_a_version_that_fails_while_it_is_warmed_up_is_not_released",
    ),
    (
        "a rollback to what nobody knows",
        "_rollback",
        "if others and len(others) == len(fleet.hosts):",
        "if False:",
        f"{GUARDS}test_a_rollback_to_what_nobody_knows",
    ),
    (
        "a dead registration is left",
        "_converge",
        "host.server.management.take_away(desired.model, one.version)",
        "pass",
        f"{GUARDS}test_reconcile_leaves_no_registration_that_cannot_start",
    ),
    (
        "back to what cannot answer",
        "_converge",
        "if current is not None and current.ready and not here.ready:",
        "if False:",
        "test_release_undo.py::test_a_default_that_died_meanwhile_is_not_gone_back_to",
    ),
    (
        "what is asked for is not drained",
        "_undo",
        "has_work = asked and here.ready > 0 and not only",
        "has_work = False",
        "test_release_undo.py::test_who_asks_for_what_was_rejected_is_answered",
    ),
    (
        "another file in the store is the same",
        "_facts",
        "return mar.file_sha256(stored) == archive.sha256",
        "return True",
        f"{GUARDS}test_what_lies_in_the_store_under_its_name_is_compared_to_the_byte",
    ),
)

WORKERS = _in(
    "workers/",
    (
        "the default is drained",
        "_drain",
        "if server.management.default_version(model) == version:",
        "if False:",
        "test_release_drain.py::test_the_default_version_is_refused",
    ),
    (
        "a queue need not be empty",
        "_drain",
        "if asked != count or described.queue.pending_requests:",
        "if asked != count:",
        "test_release_drain.py::test_the_time_counts_from_the_last_that_was_seen",
    ),
    (
        "who asks by name is not waited for",
        "_drain",
        "if asked != count or described.queue.pending_requests:",
        "if described.queue.pending_requests:",
        "test_release_drain.py::test_the_time_counts_from_the_last_that_was_seen",
    ),
    (
        "a standby ends where only it answers",
        "_standby",
        "if version not in versions or not versions[version].ready_workers:",
        "if False:",
        "test_release_standby.py::test_one_goes_on_where_only_it_can_answer",
    ),
)

COMPRESS = _in(
    "",
    (
        "a cost that is not known is accepted",
        "measure/price",
        "if most is not None and not (_is_number(value) and value <= most):",
        "if most is not None and _is_number(value) and value > most:",
        "test_price.py::test_what_costs_more_than_is_accepted",
    ),
    (
        "a price that is not accepted is released",
        "release/_plan",
        'return "refused", f"build it again, with another',
        'return "warning", f"build it again, with another',
        "test_release_plan.py::test_refused",
    ),
    (
        "the cost is measured on what was calibrated on",
        "compress/_data",
        "return sorted(order[:first]), sorted(order[first : first + _MOST])",
        "return sorted(order[:first]), sorted(order[: first + _MOST])",
        "test_compress.py::test_no_example_is_calibrated_on_and_measured",
    ),
    (
        "a metric may drop as it likes",
        "measure/price",
        '_within(price, "metric", "drop", "value"), accepts.metric_drop)',
        '_within(price, "metric", "drop", "value"), None)',
        "test_price.py::test_what_costs_more_than_is_accepted",
    ),
    (
        "what accept does not take is chosen",
        "compress/search/_choose",
        "if one.accepted and one.time <= 1.0]",
        "if one.time <= 1.0]",
        "test_compress_search.py::test_no_accepted_point_dominates_the_choice",
    ),
    (
        "what is slower here is chosen",
        "compress/search/_choose",
        "if one.accepted and one.time <= 1.0]",
        "if one.accepted]",
        "test_compress_search.py::test_no_accepted_point_dominates_the_choice",
    ),
    (
        "a search begins anew each time",
        "compress/search/_run",
        "if known is not None:",
        "if False:",
        "test_compress_search.py::test_what_was_measured_is_not_measured_again",
    ),
)

DRIFT = _in(
    "drift/",
    (
        "a test of many is taken for the only one",
        "_verdicts",
        "alpha = _ALPHA / max(1, len(numbers) + len(classes) + len(vectors))",
        "alpha = 0.5",
        "test_drift.py::test_no_alarm_in_twenty_runs_of_unchanged_data",
    ),
    (
        "too few permutations for so many tests",
        "_verdicts",
        "permutations=math.ceil(_PERMUTATIONS / alpha)",
        "permutations=50",
        "test_drift.py::test_vectors_that_are_as_long_and_lie_elsewhere",
    ),
    (
        "an output that varies in size is a vector",
        "_figures",
        "            self._sizes[name] = 0\n",
        "            self._sizes[name] = array.size\n",
        "test_drift.py::test_an_output_that_varies_in_size_is_no_vector",
    ),
    (
        "requests that were drifted by are recorded as traffic",
        "_figures",
        "Worker.load(path, configured=config_of_a_check)",
        "Worker.load(path)",
        "test_drift.py::test_nothing_is_recorded_on_the_way",
    ),
    (
        "another form is read as this one",
        "_read",
        "if form != FORM:",
        "if False:",
        "test_reference.py::test_what_a_stranger_wrote",
    ),
    (
        "numbers that are none are read",
        "_read",
        "or not _is_finite(one):",
        "or False:",
        "test_reference.py::test_what_a_stranger_wrote",
    ),
)

ALL = (*COMPRESS, *DRIFT, *CLIENT, *MEASURE, *COMPARE, *PACK, *RELEASE, *WORKERS)
