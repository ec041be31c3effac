import { useQuery } from '@tanstack/react-query'
import { getText } from '../../api/sources'
import type { Span } from '../../api/types'
import { fetchRange, trim, type Piece } from './chunks'

const NEVER_CHANGES = { staleTime: Infinity, gcTime: 10 * 60_000 }

export function useChunk(source: string, index: number, characters: number, enabled: boolean) {
  const [from, to] = fetchRange(index, characters)
  return useQuery({
    ...textQuery(source, [from, to]),
    enabled,
    select: (piece): Piece => trim(piece, index, characters),
  })
}

export function useText(source: string, char: Span) {
  return useQuery(textQuery(source, char))
}

function textQuery(source: string, [from, to]: Span) {
  return {
    queryKey: ['text', source, from, to],
    queryFn: ({ signal }: { signal: AbortSignal }) => getText(source, from, to, signal),
    ...NEVER_CHANGES,
  }
}
