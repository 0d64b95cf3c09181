"""Real lines of tegrastats, shortened where the source had shortened them."""

import pytest

from edgeseed.runtime.tegrastats import parse_line

# GDWR/jetson_exporter issue 14, 11 April 2025: AGX Orin, idle, GPU power-gated.
JETPACK_6 = (
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) "
    "CPU [0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C "
    "SOC2@40.093C Tdiode@33C SOC0@41.093C CV1@-256C GPU@-256C tj@44.343C SOC1@41.25C CV2@-256C "
    "VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
# rbonghi/jetson_stats pull request 894, 25 July 2026: AGX Orin under JetPack 7.2 (its dots).
JETPACK_7 = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201,...] "
    "EMC_FREQ 3%@3199 GR3D_FREQ 0%@[1300,1300] NVENC0 off NVDEC0 off ... APE 174 "
    "cpu@52.968C/52.968C gpu@47.625C/47.625C VDD_GPU_SOC 5139mW/5139mW/5139mW "
    "VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW"
)


def test_jetpack_6() -> None:
    found = parse_line(JETPACK_6)
    assert found is not None
    assert (found.ram_used_mib, found.ram_total_mib) == (4321, 62801)
    assert found.cpu_load == (0,) * 12
    assert found.cpu_mhz == (729,) * 12
    assert (found.gpu_load, found.gpu_mhz, found.memory_load) == (0, (0, 0), 0)
    assert found.temperature_c["cpu"] == 44.562
    assert found.temperature_c["tj"] == 44.343
    assert found.power_mw == {
        "VDD_GPU_SOC": 2340, "VDD_CPU_CV": 390, "VIN_SYS_5V0": 4025, "VDDQ_VDD2_1V8AO": 301,
    }  # fmt: skip


def test_a_sensor_that_is_switched_off_is_absent_not_cold() -> None:
    found = parse_line(JETPACK_6)
    assert found is not None
    assert not {"gpu", "cv0", "cv1", "cv2"} & set(found.temperature_c)


def test_jetpack_7_on_orin() -> None:
    found = parse_line(JETPACK_7)
    assert found is not None
    assert (found.gpu_load, found.gpu_mhz) == (0, (1300, 1300))
    assert found.memory_load == 3
    assert found.temperature_c == {"cpu": 52.968, "gpu": 47.625}
    assert found.power_mw["VDD_GPU_SOC"] == found.average_mw["VDD_GPU_SOC"] == 5139
    assert found.cpu_load[:2] == (23, 10)
    assert found.cpu_mhz[:2] == (2201, 2201)


@pytest.mark.parametrize(
    ("text", "load", "clocks"),
    [
        # The three forms that jetson_stats pull request 894 lists: JetPack 6, 7 on Thor, 7 on Orin.
        ("GR3D_FREQ 10%@1300", 10, (1300,)),
        ("GR3D_FREQ @[1000,1000,1000]", None, (1000, 1000, 1000)),
        ("GR3D_FREQ 12%@[1300,1300]", 12, (1300, 1300)),
        # rbonghi/jetson_stats issue 362: Orin NX under JetPack 5, one entry a cluster.
        ("GR3D_FREQ 0%@114 GR3D2_FREQ 7%@114", 7, (114, 114)),
        ("GR3D_FREQ 34%", 34, ()),
        ("", None, ()),
    ],
)
def test_the_gpu_in_every_form_it_has_had(
    text: str, load: int | None, clocks: tuple[int, ...]
) -> None:
    found = parse_line(f"RAM 1/2MB {text} VIC_FREQ 729")
    assert found is not None
    assert (found.gpu_load, found.gpu_mhz) == (load, clocks)


def test_cores_that_are_off_have_no_load() -> None:
    found = parse_line("RAM 1/2MB CPU [12%@1510,off,off,3%@729]")
    assert found is not None
    assert found.cpu_load == (12, None, None, 3)


@pytest.mark.parametrize("line", ["", "tegrastats: not found", "CPU@44C"])
def test_what_is_no_line_of_tegrastats_is_none(line: str) -> None:
    assert parse_line(line) is None


def test_it_becomes_json() -> None:
    found = parse_line(JETPACK_6)
    assert found is not None
    assert found.to_dict()["power_mw"]["VDD_CPU_CV"] == 390
