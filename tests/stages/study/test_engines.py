"""Engines run every job and return its outcome, one after another or all at once."""

from medmim.data.sandbox.ray_cluster import RayEngine
from medmim.stages.study.engines import LocalEngine, RayStudyEngine, StudyEngine
from medmim.stages.study.training_process import Job, Outcome

JOBS = [Job("pretrain", title, title, {"lr": 0.1}, {}) for title in ("first", "second")]


class Reversed(RayEngine):
    """A cluster with two CPUs on which the last job ends first; it keeps what is submitted."""

    capacity = 2

    def __init__(self):
        super().__init__(None)
        self.submitted = []

    def map(self, function, jobs):
        self.submitted += jobs
        for index in reversed(range(len(jobs))):
            yield index, {"run_id": jobs[index]["job"]["digest"], "error": "", "minutes": 2.0}


def test_a_local_job_is_requested_after_the_previous_one_has_ended(tmp_path):
    events = []

    def call(job, home):
        events.append(f"run {job.title}")
        return Outcome(job.digest)

    def requested():
        for job in JOBS:
            events.append(f"request {job.title}")
            yield job

    engine = LocalEngine(call)
    assert isinstance(engine, StudyEngine)
    assert (engine.width, engine.asks_ahead) == (1, False)
    assert [(job.title, outcome.run_id) for job, outcome in engine.run(requested(), tmp_path)] == [
        ("first", "first"),
        ("second", "second"),
    ]
    assert events == ["request first", "run first", "request second", "run second"]


def test_jobs_of_a_cluster_are_plain_values_and_come_back_with_their_outcome(tmp_path):
    ray = Reversed()
    engine = RayStudyEngine(ray)
    assert isinstance(engine, StudyEngine)
    assert (engine.width, engine.asks_ahead) == (2, True)
    found = list(engine.run(JOBS, tmp_path))
    assert found == [(job, Outcome(job.digest, minutes=2.0)) for job in reversed(JOBS)]
    assert [one["job"]["title"] for one in ray.submitted] == ["first", "second"]
    assert {one["home"] for one in ray.submitted} == {str(tmp_path.resolve())}
