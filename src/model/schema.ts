// The bridge between the plain types of types.ts and the TypeBox schemas: a schema is exported as
// `SchemaOf<T>`, and the compiler refuses one that describes anything else than T. So the types
// stay readable and the schemas cannot drift from them.

import type { Static, TSchema, TUnsafe } from "typebox";

/** A JSON schema known to describe T. */
export type SchemaOf<T> = TSchema & { readonly "~describes"?: T };

type DeepReadonly<T> = T extends readonly (infer Item)[]
  ? readonly DeepReadonly<Item>[]
  : T extends object
    ? { readonly [Key in keyof T]: DeepReadonly<T[Key]> }
    : T;

type Same<A, B> = [DeepReadonly<A>] extends [DeepReadonly<B>]
  ? [DeepReadonly<B>] extends [DeepReadonly<A>]
    ? true
    : false
  : false;

/**
 * `describes<Volume>()(Type.Object({...}))`: the schema itself, typed as SchemaOf<Volume>. Two
 * calls because TypeScript cannot take one type argument and infer the other.
 */
export function describes<T>(): <S extends TSchema>(
  schema: Same<Static<S>, T> extends true ? S : never,
) => SchemaOf<T> {
  return (schema) => schema as never;
}

/** The same for a schema that others are made of: what they describe is then known in turn. */
export function partOf<T>(): <S extends TSchema>(
  schema: Same<Static<S>, T> extends true ? S : never,
) => TUnsafe<T> {
  return (schema) => schema as never;
}
