"""What is made of samples: medians, ratios, tables, plots, and who is said to be ahead."""

import json
import pathlib
import sys
import unittest
import xml.etree.ElementTree

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from harness import judge, plots, report, scenarios, stats, svg, tables, targets  # noqa: E402 (found only after the line above)


def sample(target, number=0, **values):
    return {"round": number, "target": target, "scenario": "whole-1k-32", "errors": 0, "machine_load": 1.0, **values}


def result(samples):
    described = [
        {"name": name, "title": name, "kind": kind, "on": "", "lacks": "", "version": "1", "rate": 10}
        for name, kind in (("direct", "floor"), ("nginx", "proxy"), ("peer", "gateway"), ("tidegate-full", "ours"))
    ]
    asked = [{"name": "whole-1k-32", "title": "Requests", "kind": "whole", "streams": 0, "asked": 0, "duration": 1, "note": ""}]
    machine = {"when": "now", "commit": "abc", "cpu": "one", "cores": 2, "memory_gib": 1, "kernel": "6", "files": 1024}
    return {"machine": machine, "rounds": 2, "quick": False, "targets": described, "scenarios": asked,
            "samples": samples, "skipped": [{"target": "peer", "scenario": None, "reason": "it is not there"}]}  # fmt: skip


class Statistics(unittest.TestCase):
    def test_the_median_of_the_rounds_counts_and_errors_add_up(self):
        samples = [sample("nginx", number, cpu_us=cpu, errors=1) for number, cpu in enumerate((10.0, 30.0, 12.0))]
        found = stats.summary(samples)["whole-1k-32"]["nginx"]
        self.assertEqual((found["cpu_us"], found["errors"], found["rounds"]), (12.0, 3, 3))
        self.assertAlmostEqual(found["spread"]["cpu_us"], 20 / 12)

    def test_there_is_no_ratio_to_nothing(self):
        self.assertIsNone(stats.ratio(1.0, None))
        self.assertIsNone(stats.ratio(1.0, 0))
        self.assertEqual(stats.ratio(3.0, 2.0), 1.5)


class Tables(unittest.TestCase):
    def test_numbers_have_the_digits_that_mean_something(self):
        self.assertEqual([tables.number(value) for value in (1234.5, 45.67, 2.345, 0, None)], ["1,234", "45.7", "2.35", "0.00", "-"])
        self.assertEqual((tables.time(999), tables.time(12345), tables.mib(2048)), ("999 us", "12.3 ms", "2.0"))

    def test_a_line_has_its_ratios_to_direct_and_nginx(self):
        found = stats.summary([
            sample("direct", rps=1000, p50_us=10, cpu_us=3.0),
            sample("nginx", rps=500, p50_us=20, cpu_us=10.0),
            sample("tidegate-full", rps=250, p50_us=40, cpu_us=20.0, asking_busy=0.95),
        ])  # fmt: skip
        shown = result([])
        text = tables.scenario(shown["scenarios"][0], found["whole-1k-32"], shown["targets"])
        line = next(line for line in text.splitlines() if "tidegate-full" in line)
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        self.assertEqual(cells[:3] + [cells[5], cells[9]], ["tidegate-full †", "250", "25%", "2.00", "4.00"])
        self.assertEqual({row.count("|") for row in text.splitlines()}, {len(tables.COLUMNS["whole"][0]) + 1})

    def test_each_kind_of_scenario_has_a_table_and_measures(self):
        for one in scenarios.every(quick=False):
            head, cells = tables.COLUMNS[one.kind]
            self.assertEqual(len(cells({"errors": 0, "spread": {}, "rounds": 1}, {"direct": {}, "nginx": {}})), len(head) - 1)
            self.assertIn(one.kind, judge.MEASURES)


class Scenarios(unittest.TestCase):
    def test_no_two_of_one_process_ask_the_same(self):
        asked = [(one.mode, one.process, one.arguments[1]) for one in scenarios.every(quick=False) if one.kind in ("whole", "open")]
        self.assertEqual(len(set(asked)), len(asked))


class Judgement(unittest.TestCase):
    def ahead(self, **peer):
        samples = [sample("tidegate-full", cpu_us=20.0, rps=100), sample("peer", **peer)]
        return judge.ahead(result(samples), stats.summary(samples))

    def test_what_was_counted_is_read_with_its_commit(self):
        found, at = judge.counted("# Instructions\n# At abc1234\ngoverned/whole_1k   136500\n")
        self.assertEqual((found, at), ({"governed/whole_1k": 136.5}, "abc1234"))
        bars = {what: (value, holds) for what, _, value, holds in judge.bars({}, found)}
        self.assertEqual(bars["instructions of a request of 1 KiB, thousands"], (136.5, True))
        self.assertEqual(bars["instructions of a token, thousands"], (None, None))

    def test_who_is_ahead_is_told(self):
        ((_, called, _, own, who),) = self.ahead(cpu_us=15.0, rps=100)
        self.assertEqual((called, own, [(one["name"], value) for one, value in who]), ("CPU", 20.0, [("peer", 15.0)]))

    def test_who_is_level_or_fails_is_not_ahead(self):
        self.assertEqual(self.ahead(cpu_us=19.5, rps=100), [])
        self.assertEqual(self.ahead(cpu_us=1.0, rps=1000, errors=500), [])

    def test_a_bar_that_was_not_measured_neither_holds_nor_fails(self):
        holds = {what: holds for what, _, _, holds in judge.bars(stats.summary([sample("tidegate-full", cpu_us=20.0)]))}
        self.assertIs(holds["CPU of a request of 1 KiB, us"], True)
        self.assertIs(holds["idle memory, MiB"], None)


class Page(unittest.TestCase):
    def test_the_page_has_machine_lines_and_who_was_skipped(self):
        samples = [sample(name, cpu_us=cpu, rps=10) for name, cpu in (("direct", 3.0), ("nginx", 10.0), ("tidegate-full", 25.0))]
        shown = result(samples)
        found = stats.summary(samples)
        page = report.document(shown, found, plots.draw(shown, found))
        for text in ("Linux 6", "- peer: it is not there", "| Requests | CPU | 25.0 us | - | nginx (10.0 us) |", "bench-request.svg"):
            self.assertIn(text, page)

    def test_the_medians_are_json_with_a_line_for_each_target(self):
        samples = [sample("nginx", cpu_us=10.12345)]
        text = report._medians(result(samples), stats.summary(samples))
        (line,) = json.loads(text)["medians"]
        self.assertEqual((line["target"], line["cpu_us"], len(text.splitlines())), ("nginx", 10.12, 3))

    def test_a_plot_is_xml_with_a_mark_for_each_value(self):
        picture = svg.rows("T & t", "us", [("a", "ours", [3.0, 40.0]), ("b", "proxy", [None, 500.0])], ["one", "two"])
        marks = [node for node in xml.etree.ElementTree.fromstring(picture).iter() if node.tag.endswith(("circle", "rect"))]
        self.assertEqual(len(marks), 3 + 2 + 2)
        self.assertIsNone(svg.rows("T", "us", [("a", "ours", [None])]))


class Peers(unittest.TestCase):
    def test_each_target_has_a_name_of_its_own_and_its_files(self):
        found = targets.read()
        self.assertEqual(len({one.name for one in found}), len(found))
        for one in found:
            for part in [part for mode in one.modes.values() for part in mode if part.startswith("@DIR@/")]:
                self.assertTrue((targets.PEERS / one.peer / part.removeprefix("@DIR@/")).is_file(), part)


if __name__ == "__main__":
    unittest.main()
