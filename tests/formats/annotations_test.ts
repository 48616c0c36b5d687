import { deepEqual, throws } from "node:assert/strict";
import {
  annotationOf,
  parseCsvAnnotations,
  parseJsonLines,
} from "../../lib/formats/annotations.ts";

Deno.test("parseJsonLines reads names, texts, labels and objects, and says which lines it cannot use", () => {
  const text = [
    `{"file_name": "./a/1.png", "text": " a dog \\n in  the snow\\r\\n"}`,
    `{"file_name": "2.png", "label": 0, "text": "", "objects": [{"bbox": [1, 2, 3, 4], "label": "dog"}]}`,
    "",
    "{",
    `{"text": "lost"}`,
    `{"file_name": "3.png", "text": ["a"]}`,
    `{"file_name": "4.png", "objects": [{"bbox": [1, 2, 3, 4]}]}`,
    `["5.png"]`,
    `{"image": "6.png", "caption": "six", "label": null, "objects": null}`,
  ].join("\n");
  deepEqual(parseJsonLines(`\uFEFF${text}`), {
    files: [
      { file: "a/1.png", text: "a dog in  the snow" },
      { file: "2.png", label: "0", objects: [{ label: "dog", numbers: [1, 2, 3, 4] }] },
      { file: "6.png", text: "six" },
    ],
    bad: [
      { line: 4, message: "it is not JSON" },
      { line: 5, message: "it has no file_name" },
      { line: 6, message: `its text is ["a"], no text` },
      { line: 7, message: `number 1 of its objects has no "label"` },
      { line: 8, message: "it has no file_name" },
    ],
  });
});

Deno.test("parseCsvAnnotations reads columns, objects as JSON, and says which rows it cannot use", () => {
  const text = [
    "file_name,text,label,objects",
    `1.png,"a dog, sitting",,`,
    `2.png,,3,"[{""bbox"": [1, 2, 3, 4], ""label"": ""dog""}]"`,
    "3.png,x",
    `4.png,,,{`,
    `,x,,`,
  ].join("\r\n");
  deepEqual(parseCsvAnnotations(text), {
    files: [
      { file: "1.png", text: "a dog, sitting" },
      { file: "2.png", label: "3", objects: [{ label: "dog", numbers: [1, 2, 3, 4] }] },
    ],
    bad: [
      { line: 4, message: "it has 2 cells, and the header 4" },
      { line: 5, message: "the cell objects is not JSON" },
      { line: 6, message: "it has no file_name" },
    ],
  });
  deepEqual(parseCsvAnnotations(""), { files: [], bad: [] });
});

Deno.test("annotationOf refuses what is no object", () => {
  throws(() => annotationOf([]), /^FormatError: it is not a JSON object$/);
  deepEqual(annotationOf({ other: 1 }), {});
});
