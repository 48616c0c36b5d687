/** `ldm doctor`: the adapter, what it can do, what to install, and whether it computes correctly. */

import { counted } from "../base/counted.ts";
import { DeviceError } from "../base/errors.ts";
import { type KnownAnswer, knownAnswers } from "../engine/known_answers.ts";
import { tunedTable } from "../engine/tuning.ts";
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

/** Features that change what this program does, and what for. Of the others, whether they are there changes nothing. */
const FEATURES: readonly (readonly [GPUFeatureName, string])[] = [
  ["shader-f16", "the coarser products of `ldm tune --approximate`"],
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
  const system = await systemFacts();
  const adapter = await requestAdapter().catch((error) => {
    if (!(error instanceof DeviceError) || !system.nvidia) throw error;
    throw new DeviceError(`${error.message}; ${NVIDIA_ADVICE}`, { cause: error });
  });
  const about = describe(adapter, system);
  if (options.json) await printJson({ event: "adapter", ...about });
  else for (const line of lines(about)) await printLine(line);

  await using device = await openDevice();
  const { kind, subgroups = false, f16 } = device.profile;
  let untuned = "";
  const table = await tunedTable((message) => untuned = message)(device.adapter);
  const tuned = table?.size ?? 0;
  if (options.json) await printJson({ event: "device", kernels: kind, subgroups, f16, tuned });
  else {
    await printLine(`kernels    ${KERNELS[kind]}, ${subgroups ? "with" : "without"} subgroups`);
    await printLine(
      `tuned      ${table ? `${counted(tuned, "choice")}, which --tuned uses` : untuned}`,
    );
  }
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
  else {
    await printLine(`answers    ${results.length} known answers are right (${took})`);
    for (const step of nextSteps(about.software, table !== undefined)) {
      await printLine(`next       ${step}`);
    }
  }
  return 0;
}

/** What the operating system tells that WebGPU does not. */
export interface SystemFacts {
  /** Version of the kernel's part of NVIDIA's driver, "" where it is not told; `undefined` without such a GPU. */
  readonly nvidia: string | undefined;
  /** A device that Mesa's drivers for GPUs compute on, where there is one; Linux alone. */
  readonly renderNode: string | undefined;
}

/** Only looks: what may not be read is as if it were not there. */
async function systemFacts(): Promise<SystemFacts> {
  const version = await Deno.readTextFile("/proc/driver/nvidia/version").catch(() => undefined);
  const isThere = (path: string) => Deno.stat(path).then(() => true, () => false);
  const nvidia = version === undefined
    ? await isThere("/dev/nvidiactl") ? "" : undefined
    : /Kernel Module\D*([\d.]+)/.exec(version)?.[1] ?? "";
  const renderNode = "/dev/dri/renderD128";
  return { nvidia, renderNode: await isThere(renderNode) ? renderNode : undefined };
}

const NVIDIA_ADVICE =
  "there is an NVIDIA GPU whose Vulkan driver does not answer: install the part of its driver that has it " +
  "(libnvidia-gl-…), and start a container with NVIDIA_DRIVER_CAPABILITIES=all";

/** What to do where a driver computes on the CPU. */
export function adviceOn(software: boolean, { nvidia, renderNode }: SystemFacts): string[] {
  if (!software) return [];
  const missing = nvidia !== undefined
    ? NVIDIA_ADVICE
    : renderNode !== undefined
    ? `there is a GPU (${renderNode}) whose driver does not answer: this user must be able to read and write ` +
      `that device (group render), and mesa-vulkan-drivers must know the GPU`
    : "if this machine has a GPU, install its Vulkan driver";
  return [`this driver computes on the CPU: ${missing}`];
}

/** What a user may do now. */
function nextSteps(software: boolean, isTuned: boolean): string[] {
  return [
    ...(software || isTuned
      ? []
      : ["`ldm tune` finds the fastest kernels of this GPU in minutes; `--tuned` uses them"]),
    "`ldm bench` times this device, with -m CHECKPOINT what a picture takes",
    '`ldm "a red fox" -m CHECKPOINT` makes a picture; -v tells what it takes of the device\'s memory',
  ];
}

interface About {
  readonly adapter: string;
  readonly driver: string;
  readonly software: boolean;
  readonly platform: string;
  readonly features: Readonly<Record<string, boolean>>;
  readonly limits: Readonly<Record<string, string>>;
  readonly advice: readonly string[];
}

function describe(adapter: GPUAdapter, system: SystemFacts): About {
  const { info, features, limits } = adapter;
  const software = isSoftware(adapter);
  return {
    adapter: info.description || info.device || info.vendor || "unnamed",
    driver: driverOf(adapter, system),
    software,
    platform:
      `${Deno.build.os} ${Deno.build.arch}, Deno ${Deno.version.deno}, ${navigator.hardwareConcurrency} CPU threads`,
    features: Object.fromEntries(FEATURES.map(([name]) => [name, features.has(name)])),
    limits: Object.fromEntries(LIMITS.map(([name, show]) => [name, show(Number(limits[name]))])),
    advice: adviceOn(software, system),
  };
}

/** WebGPU tells ids, and no version. */
function driverOf({ info }: GPUAdapter, { nvidia }: SystemFacts): string {
  const { vendor, device, architecture } = info;
  const ids = [vendor, device, architecture].filter((id) => id !== "").join(":");
  const isNvidia = /nvidia/i.test(info.description);
  return isNvidia && nvidia ? `NVIDIA ${nvidia} (${ids})` : ids || "unnamed";
}

function lines(about: About): string[] {
  const { adapter, driver, software, platform, features, limits, advice } = about;
  return [
    `adapter    ${adapter}${software ? " (software)" : ""}`,
    `driver     ${driver}`,
    `platform   ${platform}`,
    ...FEATURES.map(([name, purpose]) =>
      `feature    ${name}: ${features[name] ? "yes" : "no"} (${purpose})`
    ),
    ...Object.entries(limits).map(([name, value]) => `limit      ${name}: ${value}`),
    "memory     WebGPU does not tell how much there is; --memory-budget MIB sets a ceiling",
    ...advice.map((text) => `advice     ${text}`),
  ];
}
