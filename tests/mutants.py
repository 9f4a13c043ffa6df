"""Takes one promise after another out of a copy of the code and sees that a test notices: ``make mutants``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = (
    *("shoal", "discovery", "gateway", "nginx", "worker", "cloud"),
    *("bench", "chaos", "loadtest", "manual", "rehearsal", "tests"),
)


@dataclass(frozen=True)
class Mutant:
    """``old`` becomes ``new`` in ``file``, and ``test`` must fail."""

    promise: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        promise="two workers at most may have executed an upload that nginx carries",
        file="gateway/forwarding.py",
        old="state.uploads >= MOST_UPLOADS or",
        new="False or",
        test="tests/test_forwarding.py::test_two_workers_at_most_may_have_executed_an_upload",
    ),
    Mutant(
        promise="a worker that refused is not asked again by nginx",
        file="gateway/forwarding.py",
        old="outcome.answered and choice.worker.incarnation in state.tried",
        new="False",
        test="tests/test_forwarding.py::test_who_refused_is_not_asked_again",
    ),
    Mutant(
        promise="a client cannot write what is between nginx and a gateway",
        file="nginx/locations.py",
        old="""{forwarding.STATE: '""', forwarding.OUTCOME: '""'}""",
        new="{}",
        test="tests/test_nginx.py::test_the_headers_between_us_are_nobody_elses",
    ),
    Mutant(
        promise="the last gateways stay when discovery knows none",
        file="nginx/following.py",
        old='if role == "gateway" and not members:',
        new="if False:",
        test="tests/test_nginx_following.py::test_gateways_come_and_go[file]",
    ),
    Mutant(
        "a version's first traffic counts in its rate",
        "gateway/throughput.py",
        " or not report.models.keys() <= counts.keys()",
        "",
        "tests/test_scaling.py::test_a_model_that_has_traffic_as_soon_as_it_comes_is_measured_from_its_first_report",
    ),
    Mutant(
        "a job that is done is fetched though an answer about it was lost",
        "shoal/jobs.py",
        'in ("failed", "cancelled")',
        '!= "queued"',
        "tests/test_client_jobs.py::test_an_error_of_the_way_is_waited_out",
    ),
    Mutant(
        "jobs that may wait share a lookup",
        "shoal/client.py",
        "grants.take(call.excluded, call.seconds)",
        "grants.take(call.excluded, call.deadline - time.monotonic())",
        "tests/test_client_jobs.py::test_images_that_may_wait_share_a_lookup",
    ),
    Mutant(
        "an instance that drains has its group wait",
        "cloud/lifecycle.py",
        "                    group.wait_longer(DRAINED, name)\n",
        "                    pass\n",
        "tests/test_cloud.py::test_an_instance_says_when_it_is_useful_and_leaves_when_its_group_terminates_it",
    ),
    Mutant(
        "a group is as large as the gateway that wants most says",
        "cloud/scaling.py",
        "    greatest = wishes.greatest(MINUTES)\n",
        "    greatest = gateway.desired()\n",
        "tests/test_cloud.py::test_the_group_gets_what_the_gateway_that_wants_most_wants",
    ),
    Mutant(
        "who has no certificate of the authority gets no connection",
        "shoal/tls.py",
        "context.verify_mode = ssl.CERT_REQUIRED",
        "context.verify_mode = ssl.CERT_NONE",
        "tests/test_tls.py::test_only_certificates_of_the_ca_connect",
    ),
    Mutant(
        "a certificate's role decides who may call what",
        "shoal/callers.py",
        "if wanted is not None and not roles & wanted:",
        "if wanted is not None and not roles:",
        "tests/test_tls.py::test_who_may_call_what",
    ),
    Mutant(
        "who has a certificate speaks to nobody without one",
        "shoal/tls.py",
        'if not url.startswith("https://"):',
        "if not url:",
        "tests/test_tls.py::test_a_caller_expects_a_role",
    ),
    Mutant(
        "a new certificate that is broken changes nothing",
        "shoal/tls.py",
        "        except (OSError, ValueError) as error:\n            log.error(",
        "        except KeyError as error:\n            log.error(",
        "tests/test_tls.py::test_a_broken_file_keeps_the_certificate",
    ),
    Mutant(
        "no child of a service speaks to systemd for it",
        "shoal/notify.py",
        '(os.environ.pop(n, "") for n',
        '(os.environ.get(n, "") for n',
        "tests/test_notify.py::test_what_systemd_asks_is_taken_from_the_environment",
    ),
    Mutant(
        "a service that is not of use is not alive to systemd",
        "shoal/notify.py",
        "            if not lost:\n",
        "            if lost or not lost:\n",
        "tests/test_notify.py::test_it_is_alive_only_while_what_it_needs_holds",
    ),
    Mutant(
        "nobody who dies takes a job along that was promised by a 202",
        "worker/job_requests.py",
        "replace(offer, front=id, job",
        "replace(offer, job",
        "tests/test_jobs.py::test_a_front_that_dies_leaves_its_jobs",
    ),
    Mutant(
        "a webhook that is delivered is not sent again",
        "worker/queue_scripts/job_attempted.lua",
        "redis.call('ZREM', DUE, id)  --",
        "--",
        "tests/test_jobs.py::test_a_webhook_that_fails_twice_gets_the_result_once",
    ),
    Mutant(
        "what comes after the end of a job changes nothing",
        "worker/queue_scripts/records.lua",
        "  if redis.call('HGET', key, 'status') ~= 'queued' then return end\n",
        "",
        "tests/test_jobs.py::test_an_answer_that_comes_after_its_job_was_cancelled_is_dropped",
    ),
    Mutant(
        "webhooks go to no private address",
        "worker/webhooks.py",
        '            await self.addresses.resolve(url.raw_host or "")\n',
        "            return\n",
        "tests/test_jobs.py::test_where_webhooks_may_go",
    ),
    Mutant(
        "a load that only jitters moves the suggested number of workers one way at most",
        "gateway/scaling.py",
        "return max(1, min(max(before, lowest), highest))",
        "return max(1, math.ceil(need))",
        "tests/test_scaling.py::test_a_load_that_only_jitters_moves_the_suggestion_one_way",
    ),
    Mutant(
        "a gateway that has just started suggests as many workers as there are",
        "gateway/scaling.py",
        "highest = max(highest, before)",
        "pass",
        "tests/test_scaling.py::test_a_gateway_that_has_just_started_suggests_who_is_there",
    ),
    Mutant(
        "numbers go to the network's own input where they fit it",
        "worker/dialects/tensorflow_serving.py",
        'return "uint8" if row == image and not fits else own.dtype',
        'return "uint8" if row == image else own.dtype',
        "tests/test_tensorflow_serving.py::test_what_numbers_are_taken_for",
    ),
    Mutant(
        "a timeout in a body only shortens the deadline",
        "worker/dialects/open_inference.py",
        "min(deadline, started + read.timeout / _MICROSECONDS)",
        "started + read.timeout / _MICROSECONDS",
        "tests/test_open_inference.py::test_a_low_priority_is_bulk_and_a_timeout_only_shortens",
    ),
    Mutant(
        "a ticket answers no question about another model",
        "worker/questions.py",
        'if ticket is not None and target.model != ticket.model.rpartition("@")[0]:',
        "if False:",
        "tests/test_inference_questions.py::test_a_ticket_is_for_its_model_alone",
    ),
    Mutant(
        "statistics that lack a worker are none",
        "gateway/inquiries.py",
        "            if answer.status != _OK:\n                raise BadGateway",
        "            if False:\n                raise BadGateway",
        "tests/test_inference_questions.py::test_a_sum_that_would_be_wrong_is_an_error",
    ),
    Mutant(
        "a model that answers otherwise than where it was prepared does not become ready",
        "worker/models/network_runtime.py",
        "            golden.check(self._recorded.golden.outputs, found, self._recorded.tolerance)\n",
        "            del found\n",
        "tests/test_networks.py::test_a_version_that_answers_otherwise_does_not",
    ),
    Mutant(
        "batches that the device has no memory for are executed in parts",
        "worker/models/batches.py",
        "                self._is_any_size = False\n",
        "",
        "tests/test_networks.py::test_sizes_that_do_not_fit_the_device_are_given_up",
    ),
    Mutant(
        "an array whose size its client chose makes nobody else's batches smaller",
        "worker/model_process.py",
        " and not job_arrays.varies(inputs[0], self._runtime.card)",
        "",
        "tests/test_ready_made.py::test_an_array_too_large_for_the_device_makes_nobody_elses_batches_smaller",
    ),
    Mutant(
        "the jobs of a dead model process are reclaimed",
        "worker/model_processes.py",
        "        await self._reclaim(model, process)\n",
        "",
        "tests/test_faults.py::test_a_killed_model_process_loses_nothing[proxy]",
    ),
    Mutant(
        "a version stays until the requests that its fronts have for it are answered",
        "worker/fronts.py",
        "return any(key in keys for keys in self._asked_for.values())",
        "return False",
        "tests/test_swap.py::test_an_upload_that_lasts_longer_than_its_version_is_answered_by_it",
    ),
    Mutant(
        "a body is kept to be sent to a second worker",
        "gateway/app.py",
        "if uploads >= MOST_UPLOADS or",
        "if True or",
        "tests/test_faults.py::test_a_killed_worker_leaves_within_two_seconds[proxy]",
    ),
    Mutant(
        "jobs are submitted again after a loss of Redis",
        "worker/submissions.py",
        "                    await self._resubmit()\n",
        "",
        "tests/test_faults.py::test_a_killed_redis_loses_nothing",
    ),
    Mutant(
        "the SDK goes to another worker",
        "shoal/client.py",
        "if not error.retryable or call.uploads",
        "if error or call.uploads",
        "tests/test_faults.py::test_a_killed_worker_leaves_within_two_seconds[direct]",
    ),
    Mutant(
        "a draining worker says so",
        "worker/supervisor.py",
        "            self.draining = True\n",
        "",
        "tests/test_faults.py::test_a_draining_worker_finishes_and_takes_no_more[proxy]",
    ),
    Mutant(
        "a job's reply goes to its own request",
        "worker/submissions.py",
        "self._pending.get(name)",
        "next(iter(self._pending.values()), None)",
        "tests/test_cluster.py::test_every_image_gets_its_own_answer[proxy]",
    ),
    Mutant(
        "a hung child is killed",
        "worker/watch.py",
        "        keeper.child.signal(signal.SIGKILL)\n",
        "",
        "tests/test_vitals.py::test_a_child_that_is_hung_is_killed_and_another_started",
    ),
    Mutant(
        "a process that is silent for too long is hung",
        "worker/vitals.py",
        "        return self.silent > self.limit\n",
        "        return False\n",
        "tests/test_vitals.py",
    ),
    Mutant(
        "an execution without an end is a hang",
        "worker/vitals.py",
        " or self.lasting > max(self.limit, _HUNG_EXECUTIONS * self.longest)",
        "",
        "tests/test_vitals.py",
    ),
    Mutant(
        "the jobs of a dead front are deleted",
        "worker/queue_scripts/abandon.lua",
        "      redis.call('XDEL', KEYS[k], entry[1])\n",
        "",
        "tests/test_queue.py::test_what_a_dead_front_left_is_deleted_unless_it_is_executing[valkey]",
    ),
    Mutant(
        "a supervisor deletes the jobs of its dead front",
        "worker/fronts.py",
        "await self._queue.abandon(key, name)",
        "0",
        "tests/test_health.py::test_a_dead_front_s_jobs_are_not_executed_beside_those_that_were_sent_again",
    ),
    Mutant(
        "a cancelled job is taken back",
        "worker/submissions.py",
        "taken_back = await self._queue.cancel(key, submitted)",
        "taken_back = False",
        "tests/test_submissions.py::test_a_job_that_nobody_waits_for_is_taken_back",
    ),
    Mutant(
        "an image that kills its process is quarantined",
        "worker/model_processes.py",
        "                if not job.heartbeat:\n",
        "                if False:\n",
        "tests/test_health.py::test_an_image_that_hangs_the_model_is_given_up_and_quarantined",
    ),
    Mutant(
        "a quarantined image is refused",
        "worker/queue_scripts/submit.lua",
        "if quarantined > 0 then return {'quarantined', depth, quarantined} end\n",
        "",
        "tests/test_queue.py::test_a_quarantined_image_is_refused_until_it_is_released[valkey]",
    ),
    Mutant(
        "bulk jobs never starve",
        "worker/queue_scripts/claim.lua",
        "then share = count end",
        "then share = 0 end",
        "tests/test_queue.py::test_bulk_jobs_never_starve[valkey]",
    ),
    Mutant(
        "bulk jobs leave room for interactive ones",
        "worker/queue.py",
        'room = capacity if offers[0].priority == "interactive" else bulk_capacity(capacity)',
        "room = capacity",
        "tests/test_queue.py::test_bulk_jobs_leave_room_for_interactive_ones[valkey]",
    ),
    Mutant(
        "a front refuses on the head of a request what there is no room for",
        "worker/front.py",
        "        self._admit(asked, size)\n",
        "",
        "tests/test_full_queue.py",
    ),
    Mutant(
        "a gateway counts what is on its way",
        "gateway/known_worker.py",
        "        self._way(key).add(uses)\n",
        "",
        "tests/test_fleet.py::test_what_is_on_its_way_counts_until_it_has_arrived",
    ),
    Mutant(
        "a gateway sends no more than its slots",
        "gateway/known_worker.py",
        "load.bulk_slots) - self._way(key).count",
        "load.bulk_slots)",
        "tests/test_fleet.py::test_a_gateway_sends_no_more_than_its_slots",
    ),
    Mutant(
        "requests to a worker that falls silent are given up",
        "gateway/known_worker.py",
        "                scope.reschedule(now)\n",
        "                pass\n",
        "tests/test_fleet.py::test_requests_to_a_worker_that_falls_silent_are_given_up",
    ),
    Mutant(
        "of a large fleet a lookup looks at a few workers only",
        "gateway/fleet.py",
        "if len(offers) > 2 * few:",
        "if not offers:",
        "tests/test_large_fleets.py::test_of_a_large_fleet_only_a_few_workers_are_looked_at",
    ),
    Mutant(
        "a large fleet that breaks is trusted all the same",
        "gateway/fleet.py",
        "if some and len(ready) >= few * _PANIC_SHARE:",
        "if some:",
        "tests/test_large_fleets.py::test_a_large_fleet_that_breaks_is_trusted_all_the_same",
    ),
    Mutant(
        "every worker of a large fleet has several gateways",
        "gateway/subsets.py",
        "while len(found) < self._copies:",
        "while len(found) < 1:",
        "tests/test_large_fleets.py::test_every_worker_of_a_large_fleet_has_as_many_gateways_as_it_should",
    ),
    Mutant(
        "no gateway of a large fleet is without a model that few workers have",
        "gateway/subsets.py",
        "return ours | set(self._scarce(members, ours))",
        "return ours",
        "tests/test_large_fleets.py::test_no_gateway_is_without_a_model_that_few_workers_have",
    ),
    Mutant(
        "an answer to a poll that comes too late is not taken for the next one",
        "gateway/line.py",
        "would be taken for that to the next question\n            self.close()\n",
        "would be taken for that to the next question\n",
        "tests/test_large_fleets.py::test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one",
    ),
    Mutant(
        "when most workers are ejected, all are trusted",
        "gateway/fleet.py",
        "_PANIC_SHARE = 0.5",
        "_PANIC_SHARE = 0.0",
        "tests/test_fleet.py::test_half_of_the_workers_may_be_ejected_and_no_more",
    ),
    Mutant(
        "what cannot be answered in time is refused at once",
        "gateway/fleet.py",
        "return self.room > 0 and self.expected_wait < wish.seconds * _WAIT_SHARE",
        "return self.room > 0",
        "tests/test_fleet.py::test_who_cannot_be_answered_in_time_is_refused_at_once",
    ),
    Mutant(
        "the SDK gives up a worker that has fallen silent",
        "shoal/presence.py",
        "                scope.reschedule(asyncio.get_running_loop().time())\n",
        "",
        "tests/test_client.py::test_a_direct_upload_to_a_worker_that_is_gone_is_given_up[silent]",
    ),
    Mutant(
        "the SDK asks the gateways in turn",
        "shoal/gateways.py",
        "        self._turn = (self._turn + 1) % len(self._urls)\n",
        "        self._turn = 0\n",
        "tests/test_client.py::test_gateways_are_asked_in_turn",
    ),
    Mutant(
        "the SDK avoids a gateway that failed",
        "shoal/gateways.py",
        "        self._failed[url] = time.monotonic() + _AVOID_SECONDS\n",
        "        pass\n",
        "tests/test_client.py::test_a_gateway_that_failed_is_avoided",
    ),
    Mutant(
        "the SDK tells the gateway what is bulk",
        "shoal/calls.py",
        'bulk = "bulk" if priority == "bulk" else None',
        "bulk = None",
        "tests/test_client.py::test_bulk_images_say_so_and_share_no_grant_with_interactive_ones",
    ),
    Mutant(
        "who has little time does not share a grant of one with more",
        "shoal/grants.py",
        "if grant.expected_wait > seconds * _WAIT_SHARE:",
        "if False:",
        "tests/test_client.py::test_a_caller_with_little_time_does_not_take_a_grant_of_one_with_more",
    ),
    Mutant(
        "an emptied store takes no value away",
        "discovery/values.py",
        "            self._lost, self._store = held, store\n",
        "            self._lost, self._store = {}, store\n",
        "tests/test_discovery_values.py::test_an_emptied_store_takes_nothing_away[file]",
    ),
    Mutant(
        "a value is replaced only by who knows the last one",
        "discovery/file_values.py",
        "            with locked(self._folder) as folder:\n",
        "            with opened(self._folder) as folder:\n",
        "tests/test_discovery_values.py::test_of_many_at_once_one_succeeds[file]",
    ),
    Mutant(
        "a version that is not ready gets no traffic",
        "shoal/publication.py",
        "if version in ready and weight > 0:",
        "if weight > 0:",
        "tests/test_versions.py::test_a_split_is_sticky_and_a_version_that_is_not_ready_gets_nothing",
    ),
    Mutant(
        "a version that is not published takes no traffic by default",
        "gateway/versions.py",
        "if v in published.versions",
        "if v",
        "tests/test_versions.py::test_a_version_that_is_withdrawn_takes_only_what_asks_for_it",
    ),
    Mutant(
        "a request that is sent again keeps its version",
        "gateway/app.py",
        "wish = replace(wish, seconds=remaining)",
        "wish = replace(wish, seconds=remaining, key=str(remaining))",
        "tests/test_gateway.py::test_a_request_that_is_sent_again_keeps_its_version",
    ),
    Mutant(
        "a busy worker gives way although it has the answer",
        "gateway/balancers/by_content.py",
        "if c.expected_wait <= longest",
        "if c",
        "tests/test_by_content.py::test_nobody_waits_much_longer_than_on_average",
    ),
    Mutant(
        "only boxes of one class suppress each other",
        "worker/models/tasks/suppression.py",
        "left.classes[numbers] == left.classes[best]",
        "left.classes[numbers] == left.classes[numbers]",
        "tests/test_detection.py::test_suppression_is_that_of_every_pair",
    ),
    Mutant(
        "a frame is that of the upright picture",
        "worker/images.py",
        "    if orientation in _MIRRORED_X:\n",
        "    if orientation in ():\n",
        "tests/test_images.py::test_the_frame_says_where_each_pixel_is_from",
    ),
    Mutant(
        "what is transparent stands on white",
        "worker/images.py",
        'image.size, "white")',
        'image.size, "black")',
        "tests/test_images.py::test_what_is_transparent_stands_on_white",
    ),
    Mutant(
        "probabilities are not softened twice",
        "worker/models/tasks/probabilities.py",
        "are_probabilities(wide)[..., np.newaxis]",
        "np.False_",
        "tests/test_tasks.py::test_rows_that_are_probabilities_already_are_kept_whatever_stands_beside_them",
    ),
    Mutant(
        "what is fetched has the digest that was published",
        "worker/repository/fetch.py",
        "if (actual := digest_of(folder)) != digest:",
        "if (actual := digest_of(folder)) == '':",
        "tests/test_sources.py::test_another_digest_is_not_fetched",
    ),
    Mutant(
        "an archive brings no links",
        "worker/repository/archives.py",
        "if not member.isreg() or member.issparse():",
        "if False:",
        "tests/test_sources.py::test_hostile_archives",
    ),
    Mutant(
        "a copy in ONNX is kept only when it gives the same",
        "worker/models/preparation.py",
        "        golden.check(recorded.outputs, found, wanted.tolerance)\n",
        "",
        "tests/test_preparation.py::TestFrameworks::test_a_copy_that_gives_something_else_is_not_kept",
    ),
    Mutant(
        "two operators never undo one another",
        "worker/repository/publishing.py",
        "        if done:\n",
        "        if done or True:\n",
        "tests/test_models_command.py::test_two_operators_never_undo_one_another",
    ),
    Mutant(
        "https never becomes http",
        "worker/repository/web.py",
        'if req.type == "https" and',
        'if req.type == "gopher" and',
        "tests/test_sources.py::test_https_verifies_and_never_becomes_http",
    ),
    Mutant(
        "what is in use is not removed",
        "worker/repository/editing.py",
        "if (uses := _uses(publication, version)) and not force:",
        "if (uses := _uses(publication, version)) and False:",
        "tests/test_editing.py::test_what_is_refused",
    ),
    Mutant(
        "equal images share one execution",
        "worker/queue_scripts/submit.lua",
        "redis.call('EXISTS', (names(flight))) == 1) then",
        "false) then",
        "tests/test_sharing.py::test_fifty_at_once_are_one_execution[valkey]",
    ),
    Mutant(
        "one that leaves takes nothing from the others",
        "worker/queue_scripts/leave.lua",
        "if redis.call('HLEN', waiters) > 0 then return 'shared' end\n",
        "",
        "tests/test_sharing.py::test_one_that_leaves_takes_nothing_from_the_others",
    ),
    Mutant(
        "a shared job is taken back when all have left",
        "worker/queue_scripts/leave.lua",
        "if redis.call('XDEL', stream, entry) == 1 then redis.call('DECRBY', held, size) end\n",
        "",
        "tests/test_sharing.py::test_when_all_have_left_the_job_is_taken_back[valkey]",
    ),
    Mutant(
        "a dead front's job stays for those who wait at others",
        "worker/queue_scripts/abandon.lua",
        "    if flight then dead = not others_wait(flight) end\n",
        "",
        "tests/test_sharing.py::test_a_dead_front_s_jobs_stay_for_those_who_wait[valkey]",
    ),
    Mutant(
        "a leader's deadline is its own",
        "worker/submissions.py",
        "return reply.code == DeadlineExceeded.code and reply.job != self.offer.id",
        "return False",
        "tests/test_sharing.py::test_a_leader_s_deadline_is_its_own[valkey]",
    ),
    Mutant(
        "an error is never kept",
        "worker/queue.py",
        "kept = int(not reply.code)",
        "kept = 1",
        "tests/test_sharing.py::test_an_error_is_shared_and_never_kept[valkey]",
    ),
    Mutant(
        "the cache keeps to its size",
        "worker/queue_scripts/sharing.lua",
        "redis.call('GET', HELD) or '0') + size > most do",
        "redis.call('GET', HELD) or '0') + size > most and false do",
        "tests/test_sharing.py::test_the_cache_has_its_size_to_the_byte[valkey]",
    ),
    Mutant(
        "there is room for all images of a request or for none",
        "worker/queue_scripts/submit.lua",
        "if depth + jobs > capacity or",
        "if depth + 1 > capacity or",
        "tests/test_many_images.py::test_there_is_room_for_all_or_for_none",
    ),
    Mutant(
        "the first image that fails takes the others back",
        "worker/submissions.py",
        "                self._run_in_background(self._cancel(one.key, one.submitted))\n",
        "                pass\n",
        "tests/test_many_images.py::test_the_first_failure_takes_the_others_back",
    ),
    Mutant(
        "every address of a picture's host is checked",
        "worker/fetching.py",
        "        self.check(found)\n",
        "        self.check(found[:1])\n",
        "tests/test_fetching.py::test_every_address_of_a_name_must_be_public",
    ),
    Mutant(
        "an address in a URL is checked like a name's",
        "worker/fetching.py",
        "            self.check([url.raw_host])\n",
        "            pass\n",
        "tests/test_fetching.py::test_an_address_that_is_named_must_be_public_too",
    ),
    Mutant(
        "redirects are not followed",
        "worker/fetching.py",
        "allow_redirects=False",
        "allow_redirects=True",
        "tests/test_fetching.py::test_what_a_host_may_do_to_us",
    ),
    Mutant(
        "a fetched picture ends at the limit",
        "worker/fetching.py",
        "        budget.take(len(part))\n",
        "",
        "tests/test_fetching.py::test_what_a_host_may_do_to_us",
    ),
    Mutant(
        "only an admin key has a worker drained",
        "gateway/operators.py",
        "    if not holder.is_admin:\n        raise NotAllowed\n",
        "",
        "tests/test_events.py::test_an_admin_has_a_worker_drained",
    ),
    Mutant(
        "a signed order is good for what it says, and for nothing else",
        "shoal/tickets.py",
        '        if claims["do"] != order:\n            raise InvalidTicket\n',
        "",
        "tests/test_events.py::test_an_order_is_no_ticket_and_a_ticket_no_order",
    ),
    Mutant(
        "a page of a site that nobody named is told nothing",
        "shoal/cors.py",
        "return bool(origin) and (origin in origins or bool(any_port and any_port in origins))",
        "return bool(origin)",
        "tests/test_browser.py::test_any_other_page_is_told_nothing",
    ),
    Mutant(
        "the live state ends when its gateway drains",
        "gateway/events.py",
        "while not self._is_closed:",
        "while True:",
        "tests/test_events.py::test_a_drain_ends_every_listener_and_takes_no_more",
    ),
)


def survives(mutant: Mutant) -> bool:
    """Whether the test passes although the promise is gone."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        for name in COPIED:
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "setup.cfg", folder)
        path = Path(folder, mutant.file)
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            raise SystemExit(f"{mutant.file} does not have this exactly once: {mutant.old!r}")
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutant.test],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in (0, 1):
        raise SystemExit(f"the test did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main() -> int:
    """All of them, or those whose promise has one of the words on the command line."""
    words = sys.argv[1:]
    survivors = 0
    for mutant in MUTANTS:
        if words and not any(word in mutant.promise for word in words):
            continue
        alive = survives(mutant)
        survivors += alive
        print(f"{'SURVIVES' if alive else 'noticed '}  {mutant.promise}  ({mutant.test})", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
