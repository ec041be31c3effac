/** The wire, as in docs/decisions/0002-contracts.md. Every char is an offset in Unicode code points. */

export type Span = [number, number]

export interface Problem {
  title: string
  detail: string
  status: number
  code: string
  retryable?: boolean
}

export interface Chapter {
  title: string
  level: number
  char: Span
  line: Span
  page: number | null
  path: string | null
}

export type SourceStatus = 'queued' | 'reading' | 'ready' | 'failed' | 'cancelled'

export interface Source {
  id: string
  kind: 'document' | 'repository'
  status: SourceStatus
  title: string
  tokens: number | null
  characters?: number | null
  outline: Chapter[]
  error: Partial<Problem> | null
  warnings?: unknown[]
  job_id: string | null
  url?: string | null
  revision?: string | null
  previous?: string | null
  plan?: Plan | null
  reading?: Reading | null
  created_at?: string
}

/** What reading was expected to cost before it began, in tokens. */
export interface Plan {
  tokens: number
  known_tokens: number
  to_read: number
  after: string | null
  from: { source_id: string | null; title?: string | null } | null
  seconds: number | null
}

/** What it did cost. */
export interface Reading {
  position: number
  shared_tokens: number | null
  read_tokens: number | null
  seconds: number
}

/** What all readings take. */
export interface Usage {
  readings: number
  used_bytes: number
  quota_bytes: number | null
  tiers: { name: string; bytes: number; limit_bytes: number | null }[]
}

/** Not at an end yet. */
export function isActive({ status }: Pick<Source, 'status'>): boolean {
  return status === 'queued' || status === 'reading'
}

export interface Progress {
  phase: string
  done: number
  total: number
  rate?: number | null
  eta_s?: number | null
  plan?: Plan
}

export type Match = 'exact' | 'normalised' | 'fuzzy' | 'none'

export interface Quote {
  n?: number
  text: string
  source_id: string
  char: Span | null
  line: Span | null
  page: number | null
  path: string | null
  chapter: number | string | null
  match: Match
  span?: Span | null
}

export interface Message {
  id: string
  status?: 'queued' | 'running' | 'succeeded' | 'failed' | 'cancelled'
  question: string
  answer: string | null
  quotes: Quote[]
  origin: 'read' | 'retrieved' | null
  answered?: boolean | null // false: the text does not say
  confirmed?: boolean | null // false: search found it, the model did not say so
  usage: Record<string, number> | null
  timing: Record<string, number> | null
  error?: Partial<Problem> | null
  job_id?: string | null
}

export interface Summary {
  chapter: number | null
  title: string
  text: string
  quotes: Quote[]
}

export interface Summaries {
  status: 'none' | 'queued' | 'running' | 'ready' | 'failed' | 'cancelled'
  error: Partial<Problem> | null
  whole: Summary | null
  chapters: Summary[]
}

export interface TextPiece {
  text: string
  from: number
  to: number
  characters: number
}

export interface Session {
  id: string
  title: string
  source_ids?: string[]
}
