/** `ldm doctor`: the adapter, what it can do, what to install, and whether it computes correctly. */

import { DeviceError } from "../base/errors.ts";
import { type KnownAnswer, knownAnswers } from "../engine/known_answers.ts";
import { isSoftware, openDevice, requestAdapter } from "../gpu/device.ts";
import {
  addReportOptions,
  newCommand,
  parse,
  progressOptions,
  type ReportOptions,
} from "./options.ts";
import { duration, progressTo } from "./progress.ts";
import { printJson, printLine } from "./terminal.ts";

/** Features that change what this program does, and what for. */
const FEATURES: readonly (readonly [GPUFeatureName, string])[] = [
  ["shader-f16", "arithmetic in half precision"],
  ["timestamp-query", "timings of single kernels"],
];

/** Which kernels a device gets. */
const KERNELS = {
  software: "those for software devices: textures and registers",
  gpu: "those for GPUs: buffers and workgroup memory",
} as const;

/** Limits that decide how work is split, and how each is shown. */
const LIMITS: readonly (readonly [keyof GPUSupportedLimits, (value: number) => string])[] = [
  ["maxBufferSize", mebibytes],
  ["maxStorageBufferBindingSize", mebibytes],
  ["maxComputeWorkgroupStorageSize", (bytes) => `${bytes / 1024} KiB`],
  ["maxComputeInvocationsPerWorkgroup", String],
  ["maxComputeWorkgroupsPerDimension", String],
  ["maxTextureDimension2D", String],
];

function mebibytes(bytes: number): string {
  return `${Math.floor(bytes / 2 ** 20)} MiB`;
}

export async function doctor(argv: readonly string[]): Promise<number> {
  const command = addReportOptions(
    newCommand("doctor", "What this device can do, and whether it computes correctly."),
  );
  parse(command, argv);
  const options = command.opts<ReportOptions>();
  const progress = progressTo(progressOptions(options));
  const adapter = await requestAdapter();
  const about = describe(adapter);
  if (options.json) await printJson({ event: "adapter", ...about });
  else for (const line of lines(about)) await printLine(line);

  await using device = await openDevice();
  const { kind, subgroups = false, f16 } = device.profile;
  if (options.json) await printJson({ event: "device", kernels: kind, subgroups, f16 });
  else await printLine(`kernels    ${KERNELS[kind]}${subgroups ? ", with subgroups" : ""}`);
  const results: KnownAnswer[] = [];
  const start = performance.now();
  for await (const result of knownAnswers(device)) {
    results.push(result);
    progress.show("testing", results.length, result.of, result.name);
    if (options.json) await printJson({ event: "test", ...result });
    else if (result.error !== undefined || options.verbose) {
      progress.clear();
      await printLine(
        `${result.error === undefined ? "ok    " : "WRONG "} ${result.name}${
          result.error === undefined ? "" : `: ${result.error}`
        }`,
      );
    }
  }
  progress.clear();
  const wrong = results.filter(({ error }) => error !== undefined);
  const took = duration(performance.now() - start);
  if (wrong.length > 0) {
    throw new DeviceError(
      `${wrong.length} of ${results.length} known answers came out wrong on "${about.adapter}", so its ` +
        `pictures cannot be trusted; update its driver`,
    );
  }
  if (options.json) await printJson({ event: "done", tests: results.length });
  else await printLine(`answers    ${results.length} known answers are right (${took})`);
  return 0;
}

interface About {
  readonly adapter: string;
  readonly software: boolean;
  readonly platform: string;
  readonly features: Readonly<Record<string, boolean>>;
  readonly limits: Readonly<Record<string, string>>;
  readonly advice: readonly string[];
}

function describe(adapter: GPUAdapter): About {
  const { info, features, limits } = adapter;
  const software = isSoftware(adapter);
  const f16 = features.has("shader-f16");
  return {
    adapter: info.description || info.device || info.vendor || "unnamed",
    software,
    platform:
      `${Deno.build.os} ${Deno.build.arch}, Deno ${Deno.version.deno}, ${navigator.hardwareConcurrency} CPU threads`,
    features: Object.fromEntries(FEATURES.map(([name]) => [name, features.has(name)])),
    limits: Object.fromEntries(LIMITS.map(([name, show]) => [name, show(Number(limits[name]))])),
    advice: [
      ...(software
        ? ["this driver computes on the CPU: if this machine has a GPU, install its Vulkan driver"]
        : []),
      ...(f16 ? [] : ["without shader-f16 arithmetic is f32, which is right but slower on a GPU"]),
    ],
  };
}

function lines({ adapter, software, platform, features, limits, advice }: About): string[] {
  return [
    `adapter    ${adapter}${software ? " (software)" : ""}`,
    `platform   ${platform}`,
    ...FEATURES.map(([name, purpose]) =>
      `feature    ${name}: ${features[name] ? "yes" : "no"} (${purpose})`
    ),
    ...Object.entries(limits).map(([name, value]) => `limit      ${name}: ${value}`),
    ...advice.map((text) => `advice     ${text}`),
  ];
}
