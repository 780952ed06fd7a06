#!/usr/bin/env python3
"""The comparison finds each kind of difference. No package but the standard library is needed."""

import unittest

from compare import differences, listed

SCHEMA = {
    "A": ("message",),
    "A.x": ("field", 1, "uint32", "singular", ""),
    "A.E": ("enum",),
    "A.E.ZERO": ("value", 0),
}


def changed(path, *fact):
    return {**SCHEMA, path: fact}


def without(*paths):
    return {path: fact for path, fact in SCHEMA.items() if path not in paths}


class Differences(unittest.TestCase):
    def found(self, mine, theirs, left_out=(), beyond=()):
        left_out, beyond = dict.fromkeys(left_out, "why"), dict.fromkeys(beyond, "why")
        lines = differences(mine, theirs, left_out, beyond)
        return [line.split(":")[0] for line in lines]

    def test_equal_schemas_have_none(self):
        self.assertEqual(self.found(SCHEMA, SCHEMA), [])

    def test_each_fact_counts(self):
        for fact in (
            (2, "uint32", "singular", ""),
            (1, "int32", "singular", ""),
            (1, "uint32", "optional", ""),
            (1, "uint32", "repeated", ""),
            (1, "uint32", "singular", "variant"),
        ):
            self.assertEqual(self.found(changed("A.x", "field", *fact), SCHEMA), ["A.x"], fact)
        self.assertEqual(self.found(changed("A.E.ZERO", "value", 1), SCHEMA), ["A.E.ZERO"])
        self.assertEqual(self.found(changed("A.E", "message"), SCHEMA), ["A.E"])

    def test_what_one_side_lacks_counts_in_both_directions(self):
        self.assertEqual(self.found(without("A.x"), SCHEMA), ["A.x"])
        self.assertEqual(self.found(SCHEMA, without("A.x")), ["A.x"])
        self.assertEqual(self.found(without("A.x"), SCHEMA, beyond=["A.x"]), ["A.x", "A.x"])

    def test_a_list_explains_it(self):
        self.assertEqual(self.found(without("A.x"), SCHEMA, left_out=["A.x"]), [])
        self.assertEqual(self.found(SCHEMA, without("A.x"), beyond=["A.x"]), [])

    def test_a_parent_stands_for_its_content(self):
        bare = without("A.E", "A.E.ZERO")
        self.assertEqual(self.found(bare, SCHEMA), ["A.E"])
        self.assertEqual(self.found(bare, SCHEMA, left_out=["A.E"]), [])

    def test_a_name_listed_for_nothing_counts(self):
        self.assertEqual(self.found(SCHEMA, SCHEMA, left_out=["A.x"]), ["A.x"])
        self.assertEqual(self.found(SCHEMA, SCHEMA, beyond=["B"]), ["B"])


class Lists(unittest.TestCase):
    def test_the_reason_stands_above_the_group(self):
        text = "# one\n# reason\nA\nB\n\n# other\nC\n"
        self.assertEqual(
            listed(text, "list"), {"A": "one reason", "B": "one reason", "C": "other"}
        )

    def test_a_name_without_reason_or_twice_is_refused(self):
        for text in ("A\n", "# reason\nA\n\nB\n", "#\nA\n", "# reason\nA\nA\n"):
            with self.assertRaises(SystemExit):
                listed(text, "list")


if __name__ == "__main__":
    unittest.main()
