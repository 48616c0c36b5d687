import assert from "node:assert/strict";
import { FormatError, UsageError } from "../../lib/base/errors.ts";
import { applyStyles, parseStyles } from "../../lib/text/styles.ts";

const CSV = `\ufeffname,prompt,negative_prompt
photo,"{prompt}, photo, 35mm","drawing, ""art"""
dark,night,
poem,"one
two",
plain,,
photo2,{prompt} and {prompt} for $1,
`;

Deno.test("parseStyles reads A1111's table with quotes and lines in cells", () => {
  const styles = parseStyles(CSV);
  assert.deepEqual([...styles.keys()], ["photo", "dark", "poem", "plain", "photo2"]);
  assert.deepEqual(styles.get("photo"), {
    prompt: "{prompt}, photo, 35mm",
    negativePrompt: 'drawing, "art"',
  });
  assert.equal(styles.get("poem")?.prompt, "one\ntwo");
  assert.deepEqual(parseStyles("name,text\r\nold,way\r\n").get("old"), {
    prompt: "way",
    negativePrompt: "",
  });
});

Deno.test("applyStyles puts a prompt in its place, or the style after it", () => {
  const styles = parseStyles(CSV);
  const apply = (prompt: string, negativePrompt: string, ...names: string[]) => {
    const applied = applyStyles({ prompt, negativePrompt }, names, styles);
    return [applied.prompt, applied.negativePrompt];
  };
  assert.deepEqual(apply("a fox", "bad", "photo"), ["a fox, photo, 35mm", 'bad, drawing, "art"']);
  assert.deepEqual(apply(" a fox ", "", "dark"), ["a fox, night", ""]);
  assert.deepEqual(apply("", "", "dark"), ["night", ""]);
  assert.deepEqual(apply("a fox", "", "dark", "photo"), [
    "a fox, night, photo, 35mm",
    'drawing, "art"',
  ]);
  assert.deepEqual(apply("$&", "", "photo2"), ["$& and $& for $1", ""]);
  assert.deepEqual(apply("a", "b", "plain"), ["a", "b"]);
  assert.deepEqual(apply(" a ", "b"), [" a ", "b"]);
});

Deno.test("parseStyles and applyStyles name what is wrong", () => {
  const says = (work: () => unknown, kind: typeof FormatError | typeof UsageError, text: RegExp) =>
    assert.throws(work, (error) => error instanceof kind && text.test(error.message));
  says(() => parseStyles("a,b\n"), FormatError, /the first row is "a,b", "name,prompt/);
  says(() => parseStyles("", '"my.csv"'), FormatError, /^Cannot read "my\.csv": the first row/);
  says(() => parseStyles(""), FormatError, /the first row is ""/);
  says(() => parseStyles('name,prompt\n\nx,"y"z\n'), FormatError, /in line 3 a quote stands/);
  const styles = parseStyles(CSV);
  const prompts = { prompt: "", negativePrompt: "" };
  says(
    () => applyStyles(prompts, ["nope"], styles),
    UsageError,
    /style "nope": the file has "photo"/,
  );
});
