import time
from tests.scenario.test_energy_chaos import *
def test_probe(lab, process, digits):
    meters(lab, camera=PPK2)
    load = {"min_duration_s": 0.5, "min_queries": 10, "warmup_s": 0.02}
    suite = lab.suite("energy", repeats=1, load=load)
    words = ("run", suite, "--model", digits / "int8.onnx")
    t=time.time(); ran=process(*words, preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, LIMIT)); print("full", time.time()-t, ran.out)
    t=time.time(); ran=process(*words); print("ok", time.time()-t, ran.out[:300])
    print([ (p.name,p.stat().st_size) for p in (lab.folder/".farm").rglob("*") if p.is_file()])
    assert 0
