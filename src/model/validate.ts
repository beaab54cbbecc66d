// Checks a value against a schema and says in one sentence what is wrong: which field, with which
// value, and what it must be. Requests and declared state files are answered with the same words.

import type { TSchema } from "typebox";
import { Compile } from "typebox/schema";
import { quote } from "./volume-rules.ts";

export interface Violation {
  /** `backing.path`; "" for the value as a whole. */
  readonly field: string;
  /** Reads after the field's name: `is 12, but must be >= 512`. */
  readonly problem: string;
}

export type Validator = (value: unknown) => Violation | null;

interface SchemaError {
  readonly keyword: string;
  readonly schemaPath: string;
  readonly instancePath: string;
  readonly params: object;
  readonly message: string;
}

export function compileValidator(schema: TSchema): Validator {
  const compiled = Compile(schema);
  return (value) => {
    if (compiled.Check(value)) return null;
    const [, errors] = compiled.Errors(value);
    return describe(value, schema, mostTelling(errors as SchemaError[]));
  };
}

/**
 * An unknown field comes with a second error about it; alternatives that do not apply come with
 * errors each. The one that names most is worth telling.
 */
function mostTelling(errors: readonly SchemaError[]): SchemaError {
  const find = (keyword: string): SchemaError | undefined =>
    errors.find((error) => error.keyword === keyword && !error.schemaPath.includes("anyOf"));
  const plain = errors.find(
    (error) => error.keyword !== "boolean" && !error.schemaPath.includes("anyOf"),
  );
  return find("additionalProperties") ?? find("required") ?? plain ?? (errors[0] as SchemaError);
}

function describe(value: unknown, schema: TSchema, error: SchemaError): Violation {
  const field = error.instancePath.slice(1).replaceAll("/", ".");
  const params = error.params as {
    additionalProperties?: readonly string[];
    requiredProperties?: readonly string[];
  };
  if (error.keyword === "additionalProperties") {
    const unknown = params.additionalProperties?.[0] ?? "";
    return { field: joinField(field, unknown), problem: "is not a field that is known here" };
  }
  if (error.keyword === "required") {
    return { field: joinField(field, params.requiredProperties?.[0] ?? ""), problem: "is missing" };
  }
  const actual = valueAt(value, error.instancePath);
  const demand = demandOf(schema, error);
  return { field, problem: `is ${show(actual)}, but ${demand}` };
}

function joinField(field: string, name: string): string {
  return field === "" ? name : `${field}.${name}`;
}

function demandOf(schema: TSchema, error: SchemaError): string {
  const params = error.params as { allowedValues?: readonly unknown[]; pattern?: string };
  if (error.keyword === "enum" || error.keyword === "anyOf" || error.keyword === "const") {
    const allowed = params.allowedValues ?? enumAt(schema, error.instancePath);
    if (allowed !== undefined) return `must be one of ${allowed.map(show).join(", ")}`;
    return "is none of the forms it may have";
  }
  return error.message.replaceAll("characters", "character(s)");
}

/** The `enum` of the field at an instance path, through plain object properties only. */
function enumAt(schema: TSchema, instancePath: string): readonly unknown[] | undefined {
  let current: unknown = schema;
  for (const step of instancePath.split("/").slice(1)) {
    const properties = (current as { properties?: Record<string, unknown> }).properties;
    if (properties === undefined) return undefined;
    current = properties[step];
  }
  return (current as { enum?: readonly unknown[] } | undefined)?.enum;
}

function valueAt(value: unknown, instancePath: string): unknown {
  let current = value;
  for (const step of instancePath.split("/").slice(1)) {
    if (typeof current !== "object" || current === null) return undefined;
    current = (current as Record<string, unknown>)[step];
  }
  return current;
}

function show(value: unknown): string {
  if (typeof value === "string") return quote(value);
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object" && value !== null) return "an object";
  return String(value);
}
