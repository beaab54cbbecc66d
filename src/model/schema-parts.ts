// Pieces that the schemas of the model share: the same field has the same words everywhere, and
// what becomes a component of the OpenAPI document is the same object.

import Type, {
  type TInteger,
  type TNull,
  type TSchema,
  type TString,
  type TUnion,
  type TUnsafe,
} from "typebox";
import { VOLUME_NAME_LENGTH_MAX, VOLUME_NAME_PATTERN } from "./limits.ts";
import { partOf } from "./schema.ts";
import type { Health, Severity } from "./types.ts";

export const closed: { readonly additionalProperties: false } = { additionalProperties: false };

export const count = (description?: string): TInteger =>
  Type.Integer(description === undefined ? { minimum: 0 } : { minimum: 0, description });
export const text = (description: string): TString => Type.String({ description });
export const nullable = <S extends TSchema>(schema: S): TUnion<[S, TNull]> =>
  Type.Union([schema, Type.Null()]);

const NAME = { pattern: VOLUME_NAME_PATTERN, maxLength: VOLUME_NAME_LENGTH_MAX };

export const nameOf = (description: string): TString => Type.String({ ...NAME, description });
export const name: TString = nameOf("lower-case letters, digits and inner hyphens, at most 63");
export const severity: TUnsafe<Severity> = partOf<Severity>()(Type.Enum(["warn", "error"]));
export const when: TString = text("RFC 3339, UTC");
export const health: TUnsafe<Health> = partOf<Health>()(
  Type.Object(
    { code: Type.String(), severity, message: Type.String() },
    { ...closed, title: "Health" },
  ),
);
