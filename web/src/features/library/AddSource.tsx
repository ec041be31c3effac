import { useRef, useState, type FormEvent } from 'react'
import { ProblemNote } from '../../shared/ProblemNote'
import type { useAdd } from './queries'

const TAKES = '.txt,.md,.markdown,.rst,.html,.htm,.xhtml,.epub,.pdf,.docx,.zip,.tar,.gz,.tgz,text/*'

/** A file from the disk, or a repository by its address. */
export function AddSource({ add }: { add: ReturnType<typeof useAdd> }) {
  const picker = useRef<HTMLInputElement>(null)
  const [byAddress, setByAddress] = useState(false)
  return (
    <div className="add">
      <div className="row">
        <button className="primary" onClick={() => picker.current?.click()} disabled={add.isPending}>
          {add.isPending ? 'Sending…' : 'Add a file'}
        </button>
        <button aria-expanded={byAddress} onClick={() => setByAddress(!byAddress)}>
          Add a repository
        </button>
      </div>
      <input
        ref={picker}
        type="file"
        multiple
        hidden
        accept={TAKES}
        aria-label="Files to add"
        onChange={(event) => {
          const files = [...(event.target.files ?? [])]
          event.target.value = ''
          if (files.length) add.mutate(files)
        }}
      />
      {byAddress && <RepositoryForm add={add} close={() => setByAddress(false)} />}
      {add.error && <ProblemNote error={add.error} />}
    </div>
  )
}

function RepositoryForm({ add, close }: { add: ReturnType<typeof useAdd>; close: () => void }) {
  function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault()
    const fields = new FormData(event.currentTarget)
    const what = { url: String(fields.get('url')).trim(), revision: String(fields.get('revision')).trim() }
    add.mutate(what, { onSuccess: close })
  }
  return (
    <form className="repository" onSubmit={submit}>
      <label>
        Address of a git repository
        <input name="url" type="url" required pattern="https://.+" placeholder="https://github.com/…" title="An address that begins with https://" ref={(input) => input?.focus()} />
      </label>
      <label>
        Branch, tag or commit <span className="quiet">(may stay empty)</span>
        <input name="revision" />
      </label>
      <button className="primary" disabled={add.isPending}>
        {add.isPending ? 'Sending…' : 'Read it'}
      </button>
    </form>
  )
}
